"""Stage 6 in the training loop: a rollout is collected, then the policy is updated on it once or several times."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lam_jax.data.collator import Collated
from lam_jax.train.rl_batch import RLBatch, in_bucket, mini_batch
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_update import Update, signal_of
from lam_jax.train.state import TrainState


class RLStep:
    """A `Work` of the loop: (state, collated prompts) -> (state, metrics).

    Args:
        collect: rolls out and rewards; its settings are the step's.
        update: one optimiser step.

    Raises:
        ValueError: mini-batches that do not divide over the mesh.
    """

    def __init__(self, collect: Collector, update: Update):
        self.collect, self.update, self.config = collect, update, collect.config
        _require_whole_shares(self.config, collect.mesh)
        self._began = self._collected = time.monotonic()

    @property
    def _rows(self) -> int:
        """Of a batch, without those that only fill up the mesh."""
        return self.config.prompts * self.config.rows

    @property
    def updates(self) -> int:
        """Optimiser steps of one rollout."""
        return self.config.updates

    def __call__(self, state: TrainState, prompts: Collated) -> tuple[TrainState, dict[str, Any]]:
        """Collects and updates."""
        batch, metrics = self.prepare(state, prompts)
        applied: dict[str, Any] = {}
        for index in range(self.updates):
            state, applied = self.apply(state, batch, index)
        return state, self.finish(state, batch, metrics | applied)

    def prepare(self, state: TrainState, prompts: Collated) -> tuple[RLBatch, dict[str, Any]]:
        """Collects."""
        self._began = time.monotonic()
        batch, metrics = self.collect(state, prompts)
        self._collected = time.monotonic()
        return batch, metrics

    def buffer_like(self, state: TrainState, prompts: Collated) -> RLBatch:
        """Shape structs of the batch that `prepare` gives for prompts of this shape."""
        return self.collect.like(state, prompts)

    def pending(self) -> RLBatch | None:
        """The rollout of the next step where it is begun already; a checkpoint holds it."""
        return self.collect.pending()

    def restore(self, pending: RLBatch, prompts: Collated, number: int) -> None:
        """Goes on with the pending rollout of a checkpoint, for step `number`, whose prompts come next."""
        self.collect.restore(pending, prompts, number)

    def share(self, batch: RLBatch, index: int) -> RLBatch:
        """The share of the prompts that update `index` is made of."""
        return mini_batch(batch, index, self.config.mini_batches, self._rows, self.collect.mesh)

    def apply(self, state: TrainState, batch: RLBatch, index: int) -> tuple[TrainState, dict[str, Any]]:
        """Update `index` of a rollout: its share of the prompts in one of the passes."""
        return self.update(state, in_bucket(self.share(batch, index), self.config.update_buckets))

    def finish(self, state: TrainState, batch: RLBatch, metrics: dict[str, Any]) -> dict[str, Any]:
        """Adds the times, of this process's part in the step."""
        jax.block_until_ready(state.trainable)
        done = time.monotonic()
        tokens = float(jnp.sum(batch.rollout.mask))
        rollout_s, update_s = metrics.pop("generation_s", None), done - self._collected
        # Of a rollout that an earlier session began it is not known how long it took.
        generation = {} if rollout_s is None else {"rollout_s": rollout_s, "rollout_tokens_per_s": tokens / rollout_s}
        return metrics | {
            **generation,
            "update_s": update_s,
            "rl_step_s": done - self._began,
            "update_tokens_per_s": tokens / update_s,
            "skipped_updates": float(self._skipped(batch)),
        }

    def _skipped(self, batch: RLBatch) -> int:
        """Updates of the step that had nothing to learn from and were not made."""
        config = self.config
        signal = signal_of(batch, config.algorithm)
        if config.mini_batches > 1:
            signal = signal[: self._rows].reshape(config.mini_batches, -1)
        return config.epochs * int((~np.atleast_2d(signal).any(axis=1)).sum())


def _require_whole_shares(config: RLConfig, mesh: Mesh | None) -> None:
    shards = 1 if mesh is None else mesh.shape["data"]
    size = config.prompts // config.mini_batches
    if config.mini_batches > 1 and size % shards:
        raise ValueError(
            f"RLConfig: {config.mini_batches} mini-batches of {size} prompts do not divide over data = {shards}. "
            f"Use prompts a multiple of {shards * config.mini_batches}, fewer mini_batches, or a smaller data axis."
        )
