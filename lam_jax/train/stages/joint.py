"""Stage 3, joint training on paired and text-only rows with the cycle-consistency loss (method.md section 3)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.losses import gaussian_nll
from lam_jax.models.inputs import Batch
from lam_jax.train.method import Method
from lam_jax.train.stages import inverse, projector
from lam_jax.train.stages.inverse_pass import code_metrics, frozen_states, gumbel, inverse_pass, prediction_losses
from lam_jax.train.stages.objective import Objective, Term, as_loss, plain
from lam_jax.train.stages.stage import MixedBatch, Stage, whole


def joint_objective(agent: Agent, batch: MixedBatch, noise: tuple[Array, Array] | None, method: Method) -> Objective:
    """What is minimised. `noise` holds the Gumbel noise of the paired and of the text-only rows."""
    paired_noise, text_noise = noise if noise is not None else (None, None)
    seen = frozen_states(agent, batch.paired)
    withheld = frozen_states(agent, batch.paired.without_images())
    inferred = inverse_pass(agent, seen, batch.paired, paired_noise, method.learning, method.remat)
    ce, entropy = prediction_losses(agent, inferred, batch.paired, method)
    to_image, to_text = projector.projection_losses(agent, seen, withheld, batch.paired)
    nll = (method.nll_weight, plain("to_image", "to_text"))
    means = {"ce_paired": ce, "entropy_paired": entropy, "to_image": to_image, "to_text": to_text}
    formula: tuple[Term, ...] = (nll, (1.0, "ce_paired"), (method.entropy_weight, "entropy_paired"))
    derived = (("ce_paired", (1.0, "ce_paired")), ("nll", nll), ("entropy_paired", (-1.0, "entropy_paired")))
    metrics = code_metrics(inferred, batch.paired)
    if batch.text is not None:
        text = text_only_objective(agent, batch.text, text_noise, method)
        means, formula, derived = means | text.means, (*formula, (1.0, text.formula)), (*derived, *text.derived)
        metrics |= text.metrics
    return Objective(means, formula, derived, metrics)


def text_only_objective(agent: Agent, batch: Batch, noise: Array | None, method: Method) -> Objective:
    """CE and R on mu_P(e^T), and the cycle loss, which trains P' and mu_P alike: nothing is detached between them."""
    states = frozen_states(agent, batch)
    x = agent.action_input(states, batch.has_image, method.learning)
    # The projector learns from the likelihoods and the cycle alone: codes and merge read its output as a constant.
    inferred = inverse_pass(agent, jax.lax.stop_gradient(x), batch, noise, method.learning, method.remat)
    ce, entropy = prediction_losses(agent, inferred, batch, method)
    means = {"ce_text": ce, "entropy_text": entropy}
    formula: tuple[Term, ...] = ((1.0, "ce_text"), (method.entropy_weight, "entropy_text"))
    derived = (("ce_text", (1.0, "ce_text")), ("entropy_text", (-1.0, "entropy_text")))
    metrics: dict[str, Any] = code_metrics(inferred, batch, "text_")
    if method.cycle and method.learning.project:
        back = agent.latent.back_projector
        cycle = (method.nll_weight, "cycle")
        means["cycle"] = gaussian_nll(back.mean(x), back.log_variance(x), states, batch.valid)
        formula, derived = (*formula, cycle), (*derived, ("cycle", cycle))
    else:
        metrics["cycle"] = jnp.float32(0.0)
    return Objective(means, formula, derived, metrics)


def joint_noise(batch: MixedBatch, key: Array, codes: int) -> tuple[Array, Array | None]:
    """Gumbel noise of the paired and of the text-only rows."""
    one, two = jax.random.split(key)
    return gumbel(batch.paired, one, codes), None if batch.text is None else gumbel(batch.text, two, codes)


joint_loss = as_loss(joint_objective)
JOINT = Stage("joint", joint_objective, whole(*inverse.TRAINS, *projector.TRAINS), joint_noise, mixed=True)
