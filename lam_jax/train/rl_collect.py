"""A rewarded rollout of the present policy: what an update of stage 6 is made of (method.md section 4).

Legend: N prompts, G samples of a prompt.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from lam_jax.data.collator import Collated
from lam_jax.data.schemas import Example
from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.parallel import UPDATE, mesh_of, place
from lam_jax.parallel.multihost import to_host
from lam_jax.rl import fill_slots
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import Rollout, rollout
from lam_jax.rollout.run import fill_prompts, require_numbers, run_rollout
from lam_jax.rollout.weights import rollout_weights
from lam_jax.train.method import Method
from lam_jax.train.partition import merge
from lam_jax.train.rl_batch import RLBatch, replace_rows, with_advantages
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_rewards import Decode, Reward, Scores, advantages_of, masked_mean, score
from lam_jax.train.state import TrainState

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One rollout of a step, with its scores.

    Attributes:
        step: of the phase, from 1 on.
        number: 0, or that of the refill that dynamic sampling drew these prompts for.
        examples: rows of the prompts.
        rollout: on the devices; prompts after those of `examples` fill up the mesh.
        scores: of the samples of `examples`.
    """

    step: int
    number: int
    examples: tuple[Example, ...]
    rollout: Rollout
    scores: Scores


Observe = Callable[[Attempt], None]


class Collector:
    """collect(state, prompts) -> (batch, metrics): rolls out and rewards; DAPO refills groups without a signal.

    Args:
        config: settings.
        method: switches.
        frozen: the agent without its trainable part; kept as rollouts want it.
        reward: scores answers.
        decode: tokens to text.
        refill: where dynamic sampling draws further prompts from.
        layout: of the rollouts; default: what suits the mesh.
        observe: is shown each rollout, on every process, before an update is made of it; it changes nothing.
    """

    def __init__(
        self,
        config: RLConfig,
        method: Method,
        frozen: Agent,
        reward: Reward,
        decode: Decode,
        refill: Iterator[Collated],
        layout: Layout | None = None,
        observe: Observe | None = None,
    ):
        self.config, self.method, self.mesh = config, method, mesh_of(frozen)
        self.frozen = self._for_rollouts(frozen)
        self.reward, self.decode, self.refill, self.layout = reward, decode, refill, layout
        self.observe = observe

    def __call__(self, state: TrainState, prompts: Collated) -> tuple[RLBatch, Metrics]:
        """A batch of the prompts' rows, with the state's key of this step."""
        key, algorithm = state.step_key(), self.config.algorithm

        def again(number: int) -> tuple[RLBatch, Metrics]:
            return self._attempt(state, _next_alike(self.refill, prompts), key, number)

        batch, metrics = self._attempt(state, prompts, key, 0)
        most = 0 if algorithm.dynamic_sampling_std is None else algorithm.max_refills
        return refilled(batch, metrics, again, most, self.mesh)

    def roll_out(self, state: TrainState, batch: Batch, key: Array, attempt: int = 0) -> tuple[Batch, Rollout]:
        """Prompts on the mesh, filled up to its shards, and their continuations; attempt 1 and up are refills."""
        space = self.actions(state)
        count, samples = len(batch.tokens), self.config.rollout.samples
        # Placed here, so that an update after a refill is the same program.
        prompts = place(fill_prompts(batch, space), self.mesh, UPDATE)
        ids = np.arange(len(prompts.tokens) * samples, dtype=np.int32) + attempt * count * samples
        return prompts, run_rollout(space, prompts, ids.reshape(-1, samples), key, self.config.rollout, self.layout)

    def like(self, state: TrainState, prompts: Collated) -> RLBatch:
        """Shape structs of the batch that prompts of this shape give."""

        def roll(space: ActionSpace, prompts: Batch, key: Array) -> RLBatch:
            ids = jnp.zeros((prompts.tokens.shape[0], self.config.rollout.samples), jnp.int32)
            out = rollout(space, prompts, ids, key, self.config.rollout)
            return RLBatch(prompts, out, jnp.zeros(ids.shape, jnp.float32), out.mask)

        space = self.actions(state)
        return jax.eval_shape(roll, space, fill_prompts(prompts.batch, space), state.key)

    def actions(self, state: TrainState) -> ActionSpace:
        """The action space of the present policy, its weights as rollouts want them."""
        agent = merge(self._for_rollouts(state.trainable), self.frozen)
        return self.config.space.actions(agent, self.method)

    def _for_rollouts(self, part: Agent) -> Agent:
        return rollout_weights(part, part.specs, part.backbone.config.dtype)

    def _attempt(self, state: TrainState, drawn: Collated, key: Array, attempt: int) -> tuple[RLBatch, Metrics]:
        began = time.monotonic()
        prompts, out = self.roll_out(state, drawn.batch, key, attempt)
        jax.block_until_ready(out)
        require_numbers(out, [example.id for example in drawn.examples])
        generated = time.monotonic()
        scores = score(out.tokens, out.mask, drawn.examples, self.decode, self.reward)
        length = self.config.rollout.length
        advantages, active = advantages_of(self.config.algorithm, scores, length)
        batch = with_advantages(prompts, out, advantages, active, self.mesh)
        metrics = {
            **scores.metrics(length),
            "logp_gap": float(masked_mean(out.logp_gap, out.mask)),
            "informative_groups": float(np.asarray(active).any(axis=1).mean()),
            "generation_s": generated - began,
            "reward_s": time.monotonic() - generated,
        }
        if self.observe is not None:
            step = int(state.step) // self.config.updates + 1
            self.observe(Attempt(step, attempt, drawn.examples, out, scores))
        return batch, metrics


def _next_alike(refill: Iterator[Collated], first: Collated) -> Collated:
    """Further prompts, of the shape of the first ones."""
    drawn = next(refill)
    if drawn.batch.tokens.shape != first.batch.tokens.shape:
        raise ValueError(
            f"Dynamic sampling mixes prompts of several batches: found {drawn.batch.tokens.shape} after "
            f"{first.batch.tokens.shape}. Give the collator of the prompts a single length."
        )
    return drawn


def refilled(
    batch: RLBatch, metrics: Metrics, again: Callable[[int], tuple[RLBatch, Metrics]], most: int, mesh: Mesh | None
) -> tuple[RLBatch, Metrics]:
    """DAPO's dynamic sampling: groups without a signal are replaced by those of further prompts.

    Args:
        batch, metrics: of the first rollout; the metrics stay so, but for the times and the number of refills.
        again: number of the refill, from 1 on -> a rollout of further prompts.
        most: refills, at most.
        mesh: that batches lie on.
    """
    if not most:
        return batch, metrics | {"refills": 0.0}
    # Rows that fill up the mesh stay as they are.
    keep = np.asarray(to_host(jnp.any(batch.mask, axis=(1, 2)) | ~jnp.any(batch.prompts.mask, axis=1)))
    refills, metrics = 0, dict(metrics)
    while not keep.all() and refills < most:
        refills += 1
        more, extra = again(refills)
        source, keep = fill_slots(keep, np.asarray(to_host(jnp.any(more.mask, axis=(1, 2)))))
        batch = replace_rows(batch, more, jnp.asarray(source), mesh)
        for name in ("generation_s", "reward_s"):
            metrics[name] += extra[name]
    return batch, metrics | {"refills": float(refills)}
