"""Stage 3, joint training on paired and text-only rows with the cycle-consistency loss (method.md section 3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lam_jax.latent.agent import Agent
from lam_jax.losses import gaussian_nll
from lam_jax.models.inputs import Batch
from lam_jax.train.method import Method
from lam_jax.train.stages import inverse, projector
from lam_jax.train.stages.inverse_pass import code_metrics, frozen_states, gumbel, inverse_pass, prediction_losses
from lam_jax.train.stages.stage import MixedBatch, Stage, whole


def joint_loss(
    agent: Agent, batch: MixedBatch, noise: tuple[Array, Array] | None, method: Method
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss and metrics. `noise` holds the Gumbel noise of the paired and of the text-only rows."""
    paired_noise, text_noise = noise if noise is not None else (None, None)
    seen = frozen_states(agent, batch.paired)
    withheld = frozen_states(agent, batch.paired.without_images())
    inferred = inverse_pass(agent, seen, batch.paired, paired_noise, method.learning, method.remat)
    ce, entropy = prediction_losses(agent, inferred, batch.paired, method)
    to_image, to_text = projector.projection_losses(agent, seen, withheld, batch.paired)
    nll = method.nll_weight * (to_image.value + to_text.value)
    loss = nll + ce.value + method.entropy_weight * entropy.value
    metrics = {"ce_paired": ce.value, "nll": nll, "entropy_paired": -entropy.value}
    metrics |= code_metrics(inferred, batch.paired)
    if batch.text is not None:
        text_loss, text_metrics = text_only_loss(agent, batch.text, text_noise, method)
        loss, metrics = loss + text_loss, metrics | text_metrics
    return loss, {"loss": loss, **metrics}


def text_only_loss(
    agent: Agent, batch: Batch, noise: Array | None, method: Method
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """CE and R on mu_P(e^T), and the cycle loss, which trains P' and mu_P alike: nothing is detached between them."""
    states = frozen_states(agent, batch)
    x = agent.action_input(states, batch.has_image, method.learning)
    # The projector learns from the likelihoods and the cycle alone: codes and merge read its output as a constant.
    inferred = inverse_pass(agent, jax.lax.stop_gradient(x), batch, noise, method.learning, method.remat)
    ce, entropy = prediction_losses(agent, inferred, batch, method)
    cycle = jnp.float32(0.0)
    if method.cycle and method.learning.project:
        back = agent.latent.back_projector
        cycle = method.nll_weight * gaussian_nll(back.mean(x), back.log_variance(x), states, batch.valid).value
    loss = ce.value + method.entropy_weight * entropy.value + cycle
    metrics = {"ce_text": ce.value, "entropy_text": -entropy.value, "cycle": cycle}
    return loss, metrics | code_metrics(inferred, batch, "text_")


def joint_noise(batch: MixedBatch, key: Array, codes: int) -> tuple[Array, Array | None]:
    """Gumbel noise of the paired and of the text-only rows."""
    one, two = jax.random.split(key)
    return gumbel(batch.paired, one, codes), None if batch.text is None else gumbel(batch.text, two, codes)


JOINT = Stage("joint", joint_loss, whole(*inverse.TRAINS, *projector.TRAINS), joint_noise, mixed=True)
