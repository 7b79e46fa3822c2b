"""Stage 1, inverse warm-up: CE(next token | e^{VT}, a) + 1e-3 R on paired rows (method.md section 3)."""

from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.train.method import Method
from lam_jax.train.stages.inverse_pass import code_metrics, frozen_states, gumbel, inverse_pass, prediction_losses
from lam_jax.train.stages.objective import Objective, as_loss
from lam_jax.train.stages.stage import Stage, whole

TRAINS = ("latent.inverse", "latent.codebook", "latent.world")


def inverse_objective(agent: Agent, batch: Batch, noise: Array | None, method: Method) -> Objective:
    """What is minimised. `noise` is Gumbel noise [B, L, K], or None for a deterministic pass."""
    inferred = inverse_pass(agent, frozen_states(agent, batch), batch, noise, method.learning, method.remat)
    ce, entropy = prediction_losses(agent, inferred, batch, method)
    return Objective(
        {"ce": ce, "entropy": entropy},
        ((1.0, "ce"), (method.entropy_weight, "entropy")),
        (("ce", (1.0, "ce")), ("entropy", (-1.0, "entropy"))),
        code_metrics(inferred, batch),
    )


inverse_loss = as_loss(inverse_objective)
INVERSE = Stage("inverse", inverse_objective, whole(*TRAINS), gumbel)
