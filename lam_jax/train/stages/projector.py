"""Stage 2, projector warm-up: NLL(P(e^T); e^{VT}) + NLL(P'(e^{VT}); e^T) on paired rows (method.md section 3)."""

from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.losses import Mean, gaussian_nll
from lam_jax.models.inputs import Batch
from lam_jax.train.method import Method
from lam_jax.train.stages.inverse_pass import frozen_states
from lam_jax.train.stages.objective import Objective, as_loss, plain
from lam_jax.train.stages.stage import Stage, whole

TRAINS = ("latent.projector", "latent.back_projector")


def projection_losses(agent: Agent, seen: Array, withheld: Array, batch: Batch) -> tuple[Mean, Mean]:
    """Both likelihoods from the states with the image (`seen`) and with the image withheld."""
    forward, backward = agent.latent.projector, agent.latent.back_projector
    to_image = gaussian_nll(forward.mean(withheld), forward.log_variance(withheld), seen, batch.valid)
    to_text = gaussian_nll(backward.mean(seen), backward.log_variance(seen), withheld, batch.valid)
    return to_image, to_text


def projector_objective(agent: Agent, batch: Batch, noise: Array | None, method: Method) -> Objective:
    """What is minimised; no randomness."""
    seen, withheld = frozen_states(agent, batch), frozen_states(agent, batch.without_images())
    to_image, to_text = projection_losses(agent, seen, withheld, batch)
    means = {"nll_text_to_image": to_image, "nll_image_to_text": to_text}
    return Objective(means, plain(*means), tuple((name, (1.0, name)) for name in means))


projector_loss = as_loss(projector_objective)
PROJECTOR = Stage("projector", projector_objective, whole(*TRAINS))
