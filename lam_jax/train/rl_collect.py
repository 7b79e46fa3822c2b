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
from lam_jax.parallel import UPDATE, mesh_of, place, replicate
from lam_jax.parallel.multihost import gather_json, to_host
from lam_jax.rewards.judge import judge_metrics, judges_of
from lam_jax.rl import ends_well, fill_slots
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import Rollout, rollout
from lam_jax.rollout.run import brought_to, fill_prompts, require_numbers, run_rollout
from lam_jax.rollout.weights import rollout_weights
from lam_jax.runs.metrics import FAILED_PART
from lam_jax.train.method import Method
from lam_jax.train.rl_batch import RLBatch, of_one_shape, replace_rows, with_advantages
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_failures import Failures, FailureWatch, count_failures
from lam_jax.train.rl_held import for_rollouts
from lam_jax.train.rl_rewards import Decode, Reward, Scores, advantages_of, gathered, masked_mean
from lam_jax.train.rl_rolling import Rolling
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
        frozen: the agent without its trainable part; kept as rollouts want it (`lam_jax.train.rl_held`).
        reward: scores answers.
        decode: tokens to text.
        refill: where dynamic sampling draws further prompts from.
        layout: of the rollouts; default: what suits the mesh.
        observe: is shown each rollout, on every process, before an update is made of it; it changes nothing.
        ahead: gives the prompts of the next step, which stay the next ones: where scoring overlaps.
        mesh: of updates, over the devices of `frozen` in their order; default: that of `frozen`, which rollouts are on.

    Raises:
        ValueError: scoring is to overlap and there is no `ahead`.
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
        ahead: Callable[[], Collated] | None = None,
        mesh: Mesh | None = None,
    ):
        self.rollout_mesh = mesh_of(frozen)
        self.config, self.method, self.mesh = config, method, mesh or self.rollout_mesh
        self.frozen = rollout_weights(frozen, frozen.specs, frozen.backbone.config.dtype)
        self.reward, self.decode, self.refill, self.layout = reward, decode, refill, layout
        self.observe, self.ahead = observe, ahead
        if config.overlap_scoring != (ahead is not None):
            raise ValueError(f"Collector: overlap_scoring is {config.overlap_scoring}, with ahead {ahead}.")
        self._pending: Rolling | None = None
        self.watch = FailureWatch(config.max_failed_steps, config.least_usable)
        self._ends = frozen.backbone.config.eos_ids

    def __call__(self, state: TrainState, prompts: Collated) -> tuple[RLBatch, Metrics]:
        """A batch of the prompts' rows, with the state's key of this step.

        Raises:
            RewardError: a reward function raised an exception.
            NoUsableRewardError: (nearly) no reward call could be used, once too often.
        """
        if self.ahead is not None:
            return self._overlapped(state, prompts, self.ahead)
        key, algorithm = state.step_key(), self.config.algorithm
        failures: list[Failures] = []

        def attempt(drawn: Collated, number: int) -> tuple[RLBatch, Metrics]:
            batch, metrics, failed = self._scored(self._rolling(state, drawn, key, number))
            failures.append(failed)
            return batch, metrics

        batch, metrics = attempt(prompts, 0)
        most = 0 if algorithm.dynamic_sampling_std is None else algorithm.max_refills
        batch, metrics = refilled(batch, metrics, lambda n: attempt(next(self.refill), n), most, self.mesh)
        self.watch.step(sum(failures, Failures()))
        return batch, metrics

    def _overlapped(
        self, state: TrainState, prompts: Collated, ahead: Callable[[], Collated]
    ) -> tuple[RLBatch, Metrics]:
        """The rollout that was begun a step ago; the next one is begun before its scores are waited for."""
        rolling = self._pending or self._rolling(state, prompts, state.step_key(), 0)
        rolling.begin(self.decode, self.reward)
        self._pending = None
        if rolling.step < self.config.steps:
            # The key is that of the step which the rollout is for; the weights are those of before this one's update.
            key = state.replace(step=state.step + self.config.updates).step_key()
            self._pending = self._rolling(state, ahead(), key, 0, rolling.step + 1)
            self._pending.begin(self.decode, self.reward)
        batch, metrics, failures = self._scored(rolling)
        self.watch.step(failures)
        return batch, metrics | {"refills": 0.0}

    def pending(self) -> RLBatch | None:
        """The rollout of the next step, without scores, as a checkpoint holds it; None: none is begun."""
        if self._pending is None:
            return None
        prompts, out = self._pending.prompts, self._pending.out
        shape = (len(self._pending.drawn.examples), out.tokens.shape[1])
        return with_advantages(prompts, out, np.zeros(shape, np.float32), np.zeros(shape, bool), self.mesh)

    def restore(self, pending: RLBatch, drawn: Collated, step: int) -> None:
        """Goes on with a rollout of a checkpoint, which is for step `step`; it is scored when it is needed.

        Args:
            pending: from `pending`.
            drawn: its prompts, from the host.
            step: of the phase.
        """
        self._pending = Rolling(step, 0, drawn, pending.prompts, pending.rollout, None)

    def settle(self) -> None:
        """Waits until no thread asks the reward for anything, so that somebody else may."""
        if self._pending is not None:
            self._pending.settle()

    def roll_out(self, state: TrainState, batch: Batch, key: Array, attempt: int = 0) -> tuple[Batch, Rollout]:
        """Prompts on the mesh, filled up to its shards, and their continuations; attempt 1 and up are refills."""
        space = self.actions(state)
        count, samples = len(batch.tokens), self.config.rollout.samples
        filled = fill_prompts(batch, space, self.mesh)
        # Placed here, so that an update after a refill is the same program.
        prompts = place(filled, self.mesh, UPDATE)
        apart = self.rollout_mesh != self.mesh
        read = fill_prompts(filled, space) if apart else prompts
        ids = np.arange(len(read.tokens) * samples, dtype=np.int32) + attempt * count * samples
        out = run_rollout(space, read, ids.reshape(-1, samples), key, self.config.rollout, self.layout)
        if self.mesh is not None and apart:
            out = brought_to(out, self.mesh, len(prompts.tokens))
        return prompts, out

    def like(self, state: TrainState, prompts: Collated) -> RLBatch:
        """Shape structs of the batch that prompts of this shape give."""

        def roll(space: ActionSpace, prompts: Batch, key: Array) -> RLBatch:
            ids = jnp.zeros((prompts.tokens.shape[0], self.config.rollout.samples), jnp.int32)
            out = rollout(space, prompts, ids, key, self.config.rollout)
            return RLBatch(prompts, out, jnp.zeros(ids.shape, jnp.float32), out.mask)

        space = self.actions(state)
        key = replicate(state.key, self.rollout_mesh)
        return jax.eval_shape(roll, space, fill_prompts(prompts.batch, space, self.mesh), key)

    def actions(self, state: TrainState) -> ActionSpace:
        """The action space of the present policy, its weights as rollouts want them."""
        return self.config.space.actions(self.agent(state), self.method)

    def agent(self, state: TrainState) -> Agent:
        """The present agent, its weights as rollouts want them."""
        return for_rollouts(state.trainable, self.frozen)

    def _rolling(
        self, state: TrainState, drawn: Collated, key: Array, attempt: int, step: int | None = None
    ) -> Rolling:
        began = time.monotonic()
        prompts, out = self.roll_out(state, drawn.batch, key, attempt)
        return Rolling(step or int(state.step) // self.config.updates + 1, attempt, drawn, prompts, out, began)

    def _scored(self, rolling: Rolling) -> tuple[RLBatch, Metrics, Failures]:
        drawn, out = rolling.drawn, rolling.out
        if self.ahead is None:
            jax.block_until_ready(out)
        require_numbers(out, [example.id for example in drawn.examples])
        waiting = time.monotonic()
        scores = gathered(rolling.asked(self.decode, self.reward))
        waited = time.monotonic() - waiting
        length = self.config.rollout.length
        advantages, active = advantages_of(self.config.algorithm, scores, length)
        batch = with_advantages(rolling.prompts, out, advantages, active, self.mesh)
        ended = np.asarray(to_host(_ended(out.tokens, out.mask, self._ends)))[: len(drawn.examples)]
        failures = count_failures(scores.kinds, scores.errors, scores.ok.size, int((~scores.ok).sum()))
        metrics = {
            **scores.metrics(ended),
            **{f"{FAILED_PART}{kind}": float(count) for kind, count in sorted(failures.kinds.items())},
            "rows_cut": float(drawn.cuts.rows),
            "tokens_cut": float(drawn.cuts.tokens),
            "logp_gap": float(masked_mean(out.logp_gap, out.mask)),
            "informative_groups": float((active & (advantages != 0)).any(axis=1).mean()),
            **({} if rolling.generation_s is None else {"generation_s": rolling.generation_s}),
            "reward_s": rolling.reward_s,
            "reward_wait_s": waited,
            **_judge_totals(self.reward),
        }
        if self.observe is not None:
            self.observe(Attempt(rolling.step, rolling.number, drawn.examples, out, scores))
        return batch, metrics, failures


def _judge_totals(reward: Reward) -> dict[str, float]:
    """Calls, tokens and failures of the reward's judges since the run was started, those of all processes."""
    if not judges_of(reward):
        return {}
    total: dict[str, float] = {}
    for own in gather_json(judge_metrics(reward)):
        for name, value in own.items():
            total[name] = total.get(name, 0.0) + value
    return total


_ended = jax.jit(ends_well, static_argnums=2)


def refilled(
    batch: RLBatch,
    metrics: Metrics,
    again: Callable[[int], tuple[RLBatch, Metrics]],
    most: int,
    mesh: Mesh | None,
    rows: int = 1,
) -> tuple[RLBatch, Metrics]:
    """DAPO's dynamic sampling: groups without a signal are replaced by those of further prompts.

    Prompts of several buckets are filled up to the longer one where they come together.

    Args:
        batch, metrics: of the first rollout; the metrics stay so, but for the times and the number of refills.
        again: number of the refill, from 1 on -> a rollout of further prompts.
        most: refills, at most.
        mesh: that batches lie on.
        rows: of the batch that belong to one prompt, as `RLConfig.rows`.
    """
    if not most:
        return batch, metrics | {"refills": 0.0}
    # Rows that fill up the mesh stay as they are.
    filling = ~jnp.any(batch.prompts.mask, axis=1)
    keep = _by_prompt(jnp.any(batch.mask, axis=(1, 2)) | filling, rows)
    refills, metrics = 0, dict(metrics)
    while not keep.all() and refills < most:
        refills += 1
        more, extra = again(refills)
        source, keep = fill_slots(keep, _by_prompt(jnp.any(more.mask, axis=(1, 2)), rows))
        batch, more = of_one_shape(batch, more, mesh)
        batch = replace_rows(batch, more, jnp.asarray(_rows_of(source, rows, len(batch.mask))), mesh)
        for name in ("generation_s", "reward_s", "reward_wait_s"):
            metrics[name] += extra[name]
    return batch, metrics | {"refills": float(refills)}


def _by_prompt(flags: Array, rows: int) -> np.ndarray:
    """Whether a row of each prompt has the flag, of flags of all rows; what is left over at the end only fills up."""
    found = np.asarray(to_host(flags))
    return found if rows == 1 else np.asarray(found[: len(found) // rows * rows].reshape(-1, rows).any(axis=1))


def _rows_of(source: np.ndarray, rows: int, total: int) -> np.ndarray:
    """Rows instead of prompts: where each of `total` comes from, -1: it stays."""
    if rows == 1:
        return source
    found = np.where(source[:, None] >= 0, source[:, None] * rows + np.arange(rows), -1).reshape(-1)
    return np.concatenate([found, np.full(total - len(found), -1, found.dtype)])
