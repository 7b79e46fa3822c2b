"""Everything that stage 6 runs, compiled before its first step: a rollout for each prompt length, and its updates."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lam_jax.models.inputs import Batch
from lam_jax.runs.progress import Progress
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_batch import lengthened, replace_rows, shortened, with_advantages
from lam_jax.train.rl_update import signal_of
from lam_jax.train.state import TrainState


def blank_prompts(batch: Batch, length: int) -> Batch:
    """Padding throughout, in the shapes that prompts like these have at another length.

    Args:
        batch: host arrays.
        length: of the rows.
    """

    def blank(x: Any) -> np.ndarray:
        x = np.asarray(x)
        return np.zeros((*x.shape[:-1], length), x.dtype)

    rows = {name: blank(getattr(batch, name)) for name in ("tokens", "mask", "valid", "response")}
    positions = np.ones((*np.shape(batch.positions)[:-1], length), np.int32)
    return batch.replace(**rows, positions=positions)


def compile_ahead(
    step: RLStep, state: TrainState, prompts: Batch, lengths: Sequence[int], progress: Progress | None = None
) -> None:
    """Compiles the rollout of every prompt length and every update that can follow it; shows a line for each length.

    Rollouts of padding end before their first token, and updates are compiled but not run, so `state` stays as it is.

    Args:
        step: of stage 6.
        state: the weights, where training has them.
        prompts: any batch of prompts on the host, for the shapes of its pictures.
        lengths: buckets of the prompts' collator.
        progress: where progress is shown; default: nowhere.
    """
    collect, buckets = step.collect, step.config.update_buckets
    dynamic = step.config.algorithm.dynamic_sampling_std is not None
    progress = progress or Progress(enabled=False)
    total = len(lengths) * (1 + len(buckets))
    with progress.bar("compiling", total, 0) as bar:
        done = 0
        for length in lengths:
            rows, out = collect.roll_out(state, blank_prompts(prompts, length), state.step_key())
            nothing = (len(prompts.tokens), step.config.rollout.samples)
            batch = with_advantages(rows, out, jnp.zeros(nothing), jnp.zeros(nothing, bool), collect.mesh)
            if dynamic:
                for longer in (other for other in lengths if other >= length):
                    wide = lengthened(batch, longer)
                    replace_rows(wide, wide, jnp.full(len(rows.tokens), -1), collect.mesh)
            bar.update(done := done + 1, {})
            for bucket in buckets:
                share = shortened(step.share(batch, 0), bucket)
                signal_of(share, step.config.algorithm)
                step.update.lower(state, share).compile()
                bar.update(done := done + 1, {})
