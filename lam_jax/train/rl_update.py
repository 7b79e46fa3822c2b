"""The policy update of stage 6 (method.md section 4): one optimiser step on a rewarded rollout.

Legend: N prompts, G samples of a prompt, T completion length.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from lam_jax.latent.agent import Agent
from lam_jax.nn.layout import Layout
from lam_jax.nn.stack import Remat
from lam_jax.parallel import UPDATE, constrain_weights, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.parallel.exchange import take_rows
from lam_jax.parallel.multihost import to_host
from lam_jax.rl import Algorithm, PolicyMetrics, count_batch, loss_denominator, policy_loss
from lam_jax.train.method import Method
from lam_jax.train.optimiser import Optimiser
from lam_jax.train.partition import VOCABULARY_TABLES, in_dtype, merge
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.spaces import Logps
from lam_jax.train.state import TrainState


class Update:
    """update(state, batch) -> (state, metrics), jitted for the mesh that the weights lie on; the state is donated.

    A batch that nothing can be learned from (`learns_from`) makes no update: weights, moments and place in the schedule
    stay bit for bit. Moments of earlier batches would move the weights otherwise.

    Args:
        config: settings.
        method: switches.
        optimiser: for `config.steps * config.updates` steps.
        frozen: the agent without its trainable part.
        reference: the trainable part at the start, for the KL; other buffers than a state's, which are donated. Without
            a KL it may be empty.
        layout: of the program; default: what suits the mesh.
    """

    def __init__(
        self,
        config: RLConfig,
        method: Method,
        optimiser: Optimiser,
        frozen: Agent,
        reference: Agent,
        layout: Layout | None = None,
    ):
        self.frozen, self.reference, self.layout = frozen, reference, layout
        self._algorithm, self._optimiser, self._parts = config.algorithm, optimiser, config.space.parts

        def objective(
            trainable: Agent, frozen: Agent, reference: Agent, batch: RLBatch, denominator: Array
        ) -> tuple[Array, PolicyMetrics]:
            return _objective(config, method, trainable, frozen, reference, batch, denominator)

        @functools.partial(jax.jit, donate_argnums=0, static_argnames=("mesh", "layout"))
        def update(
            state: TrainState, frozen: Agent, reference: Agent, batch: RLBatch, mesh: Mesh | None, layout: Layout
        ):
            with use(mesh, UPDATE, layout):
                gradient = functools.partial(
                    jax.value_and_grad(objective, has_aux=True), state.trainable, frozen, reference
                )
                metrics, gradients = _accumulated(config, gradient, batch, mesh)
                gradients = constrain_weights(gradients, frozen.specs)
                state, applied = state.apply_gradients(gradients, optimiser)
                return state, metrics | applied

        self._update = update

    def __call__(self, state: TrainState, batch: RLBatch) -> tuple[TrainState, dict[str, Any]]:
        """One optimiser step, or none; all metrics but the learning rate are 0 then."""
        if not learns_from(batch, self._algorithm):
            state, applied = state.skip(self._optimiser)
            return state, {"loss": 0.0, **PolicyMetrics.none(self._parts).means()} | applied
        static = statics((state.trainable, self.frozen), self.layout)
        return self._update(state, self.frozen, self.reference, batch, **static)

    def trace(self, state: TrainState, batch: RLBatch) -> jax.stages.Traced:
        """The update, traced for arguments that may be shape structs with shardings."""
        static = statics((state.trainable, self.frozen), self.layout)
        return self._update.trace(state, self.frozen, self.reference, batch, **static)

    def lower(self, state: TrainState, batch: RLBatch) -> jax.stages.Lowered:
        """The update, lowered for such arguments."""
        return self.trace(state, batch).lower()


def learns_from(batch: RLBatch, algorithm: Algorithm) -> bool:
    """Whether a batch has a token that counts in the loss: an active one with an advantage, or with a KL.

    Every process calls it, and all get the same answer.
    """
    return bool(signal_of(batch, algorithm).any())


def signal_of(batch: RLBatch, algorithm: Algorithm) -> Bool[np.ndarray, " N"]:
    """The prompts that have such a token; every process calls it."""
    return np.asarray(to_host(_signal(batch.mask, batch.advantages, algorithm.beta > 0)))


@functools.partial(jax.jit, static_argnums=2)
def _signal(mask: Array, advantages: Array, kl: bool) -> Array:
    counts = mask if kl else mask & (advantages != 0)[..., None]
    return jnp.any(counts, axis=(1, 2))


def _objective(
    config: RLConfig,
    method: Method,
    trainable: Agent,
    frozen: Agent,
    reference: Agent,
    batch: RLBatch,
    denominator: Array,
) -> tuple[Array, PolicyMetrics]:
    """The rows' share of the loss of method.md section 4, whose denominator is given, and sums of their metrics."""
    algorithm, sampling = config.algorithm, config.rollout.sampling
    dtype = frozen.backbone.config.dtype

    def logps_of(part: Agent, remat: Remat) -> Logps:
        return config.space.logps(merge(part, frozen), method, batch.prompts, batch.rollout, sampling, remat)

    def flat(x: Array) -> Array:
        return _flat(x, config.sequence)

    logps, entropies = logps_of(in_dtype(trainable, dtype, VOCABULARY_TABLES), config.remat)
    ref_logps = None
    if algorithm.beta > 0:
        ref, _ = logps_of(in_dtype(reference, dtype), False)
        ref_logps = flat(jax.lax.stop_gradient(ref))
    mask = flat(batch.mask)
    # With one update a rollout the ratio is 1 by construction; recorded log-probabilities would only add rounding.
    on_policy = config.updates == 1 and not config.overlap_scoring
    old_logps = None if on_policy else flat(batch.rollout.logps)
    return policy_loss(
        algorithm,
        flat(logps),
        old_logps,
        ref_logps,
        _once(batch.advantages.reshape(-1), config.sequence),
        mask,
        denominator,
        flat(entropies["entropy"]),
        parts={name: flat(entropies[name]) for name in config.space.parts},
    )


def _accumulated(
    config: RLConfig,
    gradient: Callable[[RLBatch, Array], tuple[tuple[Array, PolicyMetrics], Agent]],
    batch: RLBatch,
    mesh: Mesh | None,
) -> tuple[dict[str, Array], Agent]:
    """Metrics and gradients of a batch, in `config.micro_batches` parts of its prompts: sums over the parts."""
    # Prompts that only fill up a mesh are padding throughout.
    turns = config.sequence
    real = _once(jnp.repeat(jnp.any(batch.prompts.mask, axis=1), batch.mask.shape[1]), turns)
    denominator = loss_denominator(
        config.algorithm.normaliser, count_batch(_flat(batch.mask, turns), real), config.rollout.length * turns
    )
    prompts, parts = len(batch.mask), config.micro_batches
    shards = 1 if mesh is None else mesh.shape["data"]
    if prompts % (parts * turns * shards):
        raise ValueError(
            f"RLConfig.micro_batches {parts} must divide the {prompts} prompts of an update into parts that divide "
            f"over data = {shards}."
        )
    if parts == 1:
        (loss, metrics), gradients = gradient(batch, denominator)
        return {"loss": loss, **metrics.means()}, gradients

    def add(total: Any, rows: Array) -> tuple[Any, None]:
        (loss, metrics), gradients = total
        (more, own), part = gradient(take_rows(batch, rows, mesh), denominator)
        return ((loss + more, metrics.merge(own)), jax.tree.map(jnp.add, gradients, part)), None

    # Neighbouring prompts lie on one device, so that every part has prompts on each of them. A game stays together.
    rows = jnp.arange(prompts).reshape(-1, parts, turns).swapaxes(0, 1).reshape(parts, -1)
    like = jax.eval_shape(lambda: gradient(take_rows(batch, rows[0], mesh), denominator))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    ((loss, metrics), gradients), _ = jax.lax.scan(add, zero, rows)
    return {"loss": loss, **metrics.means()}, gradients


def _once(x: Array, turns: int) -> Array:
    """Of [B], which the turns of a game have alike, the first turn's."""
    return x if turns == 1 else x.reshape(-1, turns)[:, 0]


def _flat(x: Array, turns: int) -> Array:
    """[.., T] as one row a sequence, which the turns of a game, neighbouring rows, are."""
    return x.reshape(-1, turns * x.shape[-1])
