"""What is shown of the rollouts of stage 6 while it runs: sample answers, and whole rollouts on demand."""

from collections.abc import Sequence

import numpy as np

from lam_jax.data.schemas import Example
from lam_jax.parallel.multihost import gather_json, is_first, to_host
from lam_jax.runs.run import Run
from lam_jax.runs.samples import Answer
from lam_jax.train.rl_collect import Attempt, Observe
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_rewards import Decode


def observer(run: Run, phase: str, config: RLConfig, decode: Decode, ends: int | Sequence[int]) -> Observe | None:
    """Shows the rollouts of a phase as `run.watching` says; None: there is nothing to show.

    Args:
        run: whose logs are written.
        phase: name of the phase.
        config: its settings.
        decode: tokens to text.
        ends: tokens that end an answer.
    """
    watching = run.watching
    if not (watching.samples_every or watching.dump_rollouts):
        return None

    def observe(attempt: Attempt) -> None:
        shown = attempt.number == 0 and watching.is_shown(attempt.step, config.steps)
        if not (shown or watching.dump_rollouts):
            return
        rows = answers_of(attempt, decode, ends)  # every process has a part of them
        if watching.dump_rollouts:
            run.rollouts.write(phase, attempt.step, attempt.number, rows)
        if shown:
            run.samples.write(phase, attempt.step, config.steps, rows[: watching.shown], config.space.coded)

    return observe


def answers_of(attempt: Attempt, decode: Decode, ends: int | Sequence[int]) -> list[tuple[Example, Sequence[Answer]]]:
    """The answers to each prompt, on the first process; nothing on the others. Every process calls it."""
    ends = (ends,) if isinstance(ends, int) else tuple(ends)
    out, scores = attempt.rollout, attempt.scores
    count = len(attempt.examples)
    arrays = to_host((out.tokens, out.actions, out.mask, out.logps))
    found = gather_json([(*place, error) for place, error in scores.errors.items()])
    errors = {(n, g): error for own in found for n, g, error in own}
    if not is_first():
        return []
    tokens, actions, mask, logps = (np.asarray(array)[:count] for array in arrays)
    texts = decode(tokens, mask)

    def answer(n: int, g: int) -> Answer:
        kept, ok = mask[n, g], bool(scores.ok[n, g])
        ids = tokens[n, g][kept].tolist()
        parts = {name: float(values[n, g]) for name, values in scores.parts.items() if np.isfinite(values[n, g])}
        return Answer(
            text=texts[n][g],
            tokens=ids,
            actions=actions[n, g][kept].tolist(),
            logps=[float(str(value)) for value in logps[n, g][kept]],  # the digits of a float32, not of its float64
            finished=bool(ids) and ids[-1] in ends,
            reward=float(scores.rewards[n, g]) if ok else None,
            parts=parts,
            error=None if ok else errors.get((n, g), "failed"),
        )

    return [(example, [answer(n, g) for g in range(tokens.shape[1])]) for n, example in enumerate(attempt.examples)]
