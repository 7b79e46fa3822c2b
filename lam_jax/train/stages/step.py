"""From a stage to a jitted training step."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.losses import Mean
from lam_jax.nn.layout import Layout
from lam_jax.parallel import TRAIN, constrain_weights, place, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.train.method import Method
from lam_jax.train.optimiser import Optimiser
from lam_jax.train.partition import VOCABULARY_TABLES, in_dtype, merge
from lam_jax.train.stages.objective import Objective
from lam_jax.train.stages.stage import Stage
from lam_jax.train.state import TrainState

Accumulation = Literal["exact", "mean_of_means"]


class Step:
    """(state, batch) -> (state, metrics), jitted for the mesh that the weights lie on; the state's buffers are donated.

    Batches may come from the host: they are placed by the table `TRAIN`.

    Args:
        stage: what is optimised.
        frozen: the agent without what `stage` trains.
        optimiser: of what it trains.
        method: switches.
        layout: of the program; default: what suits the mesh.
        micro_batches: parts of a batch that are run one after the other.
        accumulation: of the parts: "exact" gives the loss and gradients of the whole batch, "mean_of_means" the mean
            of those of the parts, which weighs rows in short parts more, as released.
        steps: of the whole phase, over which `Method.gumbel="annealed"` lets the noise fall.

    Raises:
        ValueError: annealed noise without `steps`.
    """

    def __init__(
        self,
        stage: Stage,
        frozen: Agent,
        optimiser: Optimiser,
        method: Method,
        layout: Layout | None = None,
        micro_batches: int = 1,
        accumulation: Accumulation = "exact",
        steps: int | None = None,
    ):
        self.frozen, self.layout = frozen, layout
        dtype, draw = frozen.backbone.config.dtype, None if method.gumbel == "off" else stage.noise
        falls = draw is not None and method.gumbel == "annealed"
        if falls and not steps:
            raise ValueError(f"Method.gumbel is 'annealed': Step of {stage.name} needs the phase's number of steps.")

        @functools.partial(jax.jit, donate_argnums=0, static_argnames=("mesh", "layout"))
        def step(state: TrainState, frozen: Agent, batch: Any, mesh: Mesh | None, layout: Layout):
            with use(mesh, TRAIN, layout):
                noise = draw(batch, state.step_key(), frozen.latent.config.codes) if draw else None
                if falls and steps:
                    share = noise_share(state.step, steps)
                    noise = jax.tree.map(lambda x: share * x, noise)

                def objective(trainable, batch, noise):
                    agent = merge(in_dtype(trainable, dtype, VOCABULARY_TABLES), frozen)
                    return stage.objective(agent, batch, noise, method)

                parts = state.trainable, batch, noise, micro_batches, accumulation
                metrics, gradients = _accumulated(objective, *parts)
                gradients = constrain_weights(gradients, frozen.specs)
                state, applied = state.apply_gradients(gradients, optimiser)
                return state, metrics | applied

        @functools.partial(jax.jit, static_argnames=("mesh", "layout"))
        def held_out(trainable: Agent, frozen: Agent, batch: Any, mesh: Mesh | None, layout: Layout):
            with use(mesh, TRAIN, layout):
                agent = merge(in_dtype(trainable, dtype, VOCABULARY_TABLES), frozen)
                return stage.objective(agent, batch, None, method).scalars()

        self._step, self._held_out = step, held_out

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        """One step."""
        static = statics((state.trainable, self.frozen), self.layout)
        return self._step(state, self.frozen, place(batch, static["mesh"], TRAIN), **static)

    def held_out(self, trainable: Agent, batch: Any) -> dict[str, Array]:
        """The loss and its metrics without noise, on rows that are not trained on."""
        static = statics((trainable, self.frozen), self.layout)
        return self._held_out(trainable, self.frozen, place(batch, static["mesh"], TRAIN), **static)

    def trace(self, state: TrainState, batch: Any) -> jax.stages.Traced:
        """The step, traced for arguments that may be shape structs with shardings."""
        return self._step.trace(state, self.frozen, batch, **statics((state.trainable, self.frozen), self.layout))

    def lower(self, state: TrainState, batch: Any) -> jax.stages.Lowered:
        """The step, lowered for such arguments."""
        return self.trace(state, batch).lower()


def noise_share(step: Array, steps: int) -> Array:
    """float32 scalar: of the full Gumbel noise, at step 0, 1, .. of `steps`; 1 at the first, 0 after the last."""
    return jnp.maximum(0.0, 1.0 - step.astype(jnp.float32) / steps)


def _accumulated(
    objective: Callable[..., Objective], trainable: Agent, batch: Any, noise: Any, parts: int, how: Accumulation
) -> tuple[dict[str, Array], Agent]:
    """Metrics and gradients, from `parts` shares of the rows; row i belongs to share i modulo `parts`.

    Neighbouring rows lie on one device, so that every share has rows on each of them. Metrics that are no means, such
    as the share of codes in use, are averaged over the shares.
    """
    # Only the counts are used, which depend on the rows alone: the compiler leaves out all else of the whole batch.
    counts = objective(trainable, batch, noise).counts if parts > 1 and how == "exact" else None

    def share_of_loss(trainable: Agent, batch: Any, noise: Any) -> tuple[Array, Objective]:
        found = objective(trainable, batch, noise)
        return found.loss(counts), jax.lax.stop_gradient(found)

    gradient = jax.value_and_grad(share_of_loss, has_aux=True)
    if parts == 1:
        (_, found), gradients = gradient(trainable, batch, noise)
        return found.scalars(), gradients

    def one(share: tuple[Any, Any]) -> tuple[Any, Agent]:
        (_, found), gradients = gradient(trainable, *share)
        return found.scalars() if counts is None else found, gradients

    shares = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), (batch, noise))
    like = jax.eval_shape(one, jax.tree.map(lambda x: x[0], shares))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    (found, gradients), _ = jax.lax.scan(
        lambda sums, share: (jax.tree.map(jnp.add, sums, one(share)), None), zero, shares
    )
    if counts is None:
        return jax.tree.map(lambda x: x / parts, (found, gradients))
    averaged = {name: m if isinstance(m, Mean) else m / parts for name, m in found.metrics.items()}
    return found.replace(metrics=averaged).scalars(), gradients
