"""The one training loop, which every stage and both RL updates run in."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lam_jax.train.errors import NonFiniteError
from lam_jax.train.metrics import MetricsWriter
from lam_jax.train.progress import Progress
from lam_jax.train.state import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]]
# These follow from the others: when several metrics go non-finite in one step, they are not the one that went first.
CONSEQUENCES = ("loss", "grad_norm", "update_norm")
SHOWN = ("loss", "reward", "score")


@dataclasses.dataclass(frozen=True)
class Best:
    """The weights with the highest score so far, and where they came from."""

    step: int
    score: float
    trainable: Any


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Result of `fit`.

    Attributes:
        state: after the last step.
        best: highest score among the evaluations (the earliest of equals); None without evaluation.
        history: the logged records, in order.
    """

    state: TrainState
    best: Best | None
    history: list[dict[str, Any]]


def first_non_finite(metrics: Mapping[str, float]) -> str | None:
    """Name of the metric that went non-finite first: a term of the loss, before the loss, before its gradient."""
    names = [name for name, value in metrics.items() if not math.isfinite(value)]
    return min(names, key=lambda n: CONSEQUENCES.index(n) + 1 if n in CONSEQUENCES else 0, default=None)


def _require_finite(phase: str, step: int, metrics: Mapping[str, float]) -> None:
    name = first_non_finite(metrics)
    if name is not None:
        others = ", ".join(f"{key}={value:.6g}" for key, value in metrics.items())
        raise NonFiniteError(
            f"Phase {phase}, step {step}: {name} is {metrics[name]}, and it went first. The step's metrics: {others}. "
            "Look at that step's batch, lower the learning rate or the clip norm; a run resumes from its last stage."
        )


def fit(
    phase: str,
    state: TrainState,
    step: Step,
    batches: Iterable[Any],
    steps: int,
    *,
    writer: MetricsWriter,
    progress: Progress,
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
    evaluate_every: int = 0,
    log_every: int = 1,
) -> Fitted:
    """Trains until `steps` steps are done in all (those that `state` has behind it count).

    Metrics are fetched one step late, while the device already runs the next: the loop never waits for a transfer.

    Args:
        phase: name in the metrics.
        state: its buffers may be donated by `step`.
        step: (state, batch) -> (state, scalars), usually jitted.
        batches: at least as many as steps are left.
        steps: number of the last step.
        writer: gets a record every `log_every` steps, and one for every evaluation with names that begin in "eval_".
        progress: shows the loop.
        evaluate: state -> scalars with a "score" (higher is better). It must not donate the state.
        evaluate_every: steps between evaluations; the first is before the first step. 0: only after the last step.
        log_every: steps between records; a record holds the metrics of its own step, and every step is checked.

    Raises:
        NonFiniteError: a metric became infinite or NaN.
        ValueError: too few batches, or an evaluation without a score.
    """
    start = int(state.step)
    writer.begin(phase, start)
    history: list[dict[str, Any]] = []
    best: Best | None = None

    def evaluated(number: int, best: Best | None) -> Best | None:
        if evaluate is None:
            return best
        began = time.monotonic()
        scalars = {name: float(value) for name, value in jax.device_get(dict(evaluate(state))).items()}
        if "score" not in scalars:
            raise ValueError(f"Phase {phase}: evaluation gave {sorted(scalars)}, expected a 'score' among them.")
        _require_finite(phase, number, scalars)
        record = {f"eval_{name}": value for name, value in scalars.items()} | {"eval_s": time.monotonic() - began}
        history.append(writer.write(phase, number, record))
        if best is None or scalars["score"] > best.score:
            # A copy: the next step donates the state's buffers.
            best = Best(number, scalars["score"], jax.tree.map(jnp.copy, state.trainable))
        return best

    with progress.bar(phase, steps, start) as bar:
        last_time = time.monotonic()

        def finish(number: int, metrics: Mapping[str, Any]) -> None:
            nonlocal last_time
            scalars = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
            now = time.monotonic()
            step_s, last_time = now - last_time, now
            _require_finite(phase, number, scalars)
            if number % log_every == 0 or number == steps:
                history.append(writer.write(phase, number, scalars | {"step_s": step_s}))
            bar.update(number, {name: scalars[name] for name in SHOWN if name in scalars})

        pending: tuple[int, Mapping[str, Any]] | None = None
        if evaluate_every and start < steps:
            best = evaluated(start, best)
            last_time = time.monotonic()
        supply = iter(batches)
        for number in range(start + 1, steps + 1):
            try:
                batch = next(supply)
            except StopIteration:
                raise ValueError(f"Phase {phase}: the data ended before step {number} of {steps}.") from None
            state, metrics = step(state, batch)
            if pending is not None:
                finish(*pending)
            pending = (number, metrics)
            if number == steps or (evaluate_every and number % evaluate_every == 0):
                finish(*pending)
                pending = None
                best = evaluated(number, best)
                last_time = time.monotonic()
    return Fitted(state, best, history)
