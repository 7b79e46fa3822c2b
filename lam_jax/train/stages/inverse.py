"""Stage 1, inverse warm-up: CE(next token | e^{VT}, a) + 1e-3 R on paired rows (method.md section 3)."""

from jaxtyping import Array, Float

from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.train.method import Method
from lam_jax.train.stages.inverse_pass import code_metrics, frozen_states, gumbel, inverse_pass, prediction_losses
from lam_jax.train.stages.stage import Stage, whole

TRAINS = ("latent.inverse", "latent.codebook", "latent.world")


def inverse_loss(
    agent: Agent, batch: Batch, noise: Array | None, method: Method
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss and metrics. `noise` is Gumbel noise [B, L, K], or None for a deterministic pass."""
    inferred = inverse_pass(agent, frozen_states(agent, batch), batch, noise, method.learning, method.remat)
    ce, entropy = prediction_losses(agent, inferred, batch, method)
    loss = ce.value + method.entropy_weight * entropy.value
    return loss, {"loss": loss, "ce": ce.value, "entropy": -entropy.value, **code_metrics(inferred, batch)}


INVERSE = Stage("inverse", inverse_loss, whole(*TRAINS), gumbel)
