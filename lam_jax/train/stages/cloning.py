"""Stage 4, behaviour cloning: the policy learns argmax f_inv from the past alone (method.md section 3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.losses import Mean, cloning
from lam_jax.models.inputs import Batch
from lam_jax.train.method import Method
from lam_jax.train.stages.inverse_pass import frozen_states, inverse_logits
from lam_jax.train.stages.objective import Objective, as_loss, plain
from lam_jax.train.stages.stage import MixedBatch, Stage, whole


def clone(agent: Agent, batch: Batch, method: Method) -> tuple[Mean, Mean]:
    """Cross-entropy and accuracy of the policy against the inverse model's codes on the rows of one batch."""
    x = jax.lax.stop_gradient(agent.action_input(frozen_states(agent, batch), batch.has_image, method.learning))
    target = jnp.argmax(jax.lax.stop_gradient(inverse_logits(agent, x, batch)), axis=-1)
    logits = agent.latent.policy(x, agent.backbone.rotary(batch.positions), batch.mask, method.remat)
    return cloning(logits, target, batch.valid)


def cloning_objective(agent: Agent, batch: MixedBatch, noise: Array | None, method: Method) -> Objective:
    """Mean over paired rows plus mean over text-only rows; no randomness."""
    loss, accuracy = clone(agent, batch.paired, method)
    means, metrics = {"cloning_paired": loss}, {"accuracy_paired": accuracy}
    if batch.text is not None:
        loss, accuracy = clone(agent, batch.text, method)
        means |= {"cloning_text": loss}
        metrics |= {"accuracy_text": accuracy}
    return Objective(means, plain(*means), tuple((name, (1.0, name)) for name in means), metrics)


cloning_loss = as_loss(cloning_objective)
CLONING = Stage("cloning", cloning_objective, whole("latent.policy"), mixed=True)
