"""The one training loop, which every stage and both RL updates run in."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lam_jax.errors import NonFiniteError
from lam_jax.hosts import heartbeat
from lam_jax.hosts.compilation import warn_of_recompilation
from lam_jax.runs.metrics import MetricsWriter
from lam_jax.runs.phase_checkpoint import Best, PhaseCheckpoint, PhaseSaver, Work
from lam_jax.runs.profiler import Profiler
from lam_jax.runs.progress import Bar, Progress
from lam_jax.train.state import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]]
# These follow from the others: when several metrics go non-finite in one step, they are not the one that went first.
CONSEQUENCES = ("loss", "grad_norm", "update_norm")
SHOWN = ("loss", "reward", "score")
WARM_STEPS = 2  # steps that may compile; what a first one leaves behind may lie elsewhere than what it found


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
            "Look at that step's batch, lower the learning rate or the clip norm; it resumes from its last checkpoint."
        )


class _Plain:
    """An ordinary step: one update of a batch."""

    updates = 1

    def __init__(self, step: Step):
        self._step = step

    def prepare(self, state: TrainState, batch: Any) -> tuple[Any, dict[str, Any]]:
        return batch, {}

    def buffer_like(self, state: TrainState, batch: Any) -> Any:
        return None

    def apply(self, state: TrainState, buffer: Any, index: int) -> tuple[TrainState, Mapping[str, Any]]:
        return self._step(state, buffer)

    def finish(self, state: TrainState, buffer: Any, metrics: dict[str, Any]) -> dict[str, Any]:
        return metrics


class _Recorder:
    """Checks, logs and shows the metrics of each step, one step late; evaluates and remembers the best weights."""

    def __init__(self, phase: str, steps: int, log_every: int, writer: MetricsWriter, bar: Bar, place: PhaseCheckpoint):
        self.phase, self.steps, self.log_every = phase, steps, log_every
        self.writer, self.bar, self.best = writer, bar, place.best
        self.history: list[dict[str, Any]] = []
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._last_time = time.monotonic()

    def step(self, number: int, metrics: Mapping[str, Any]) -> None:
        """Metrics of step `number`, which may still be running."""
        self.flush()
        self._pending = number, metrics

    def flush(self) -> None:
        """Waits for the newest step."""
        if self._pending is None:
            return
        (number, metrics), self._pending = self._pending, None
        scalars = self.checked(number, metrics)
        now = time.monotonic()
        step_s, self._last_time = now - self._last_time, now
        if number % self.log_every == 0 or number == self.steps:
            self.history.append(self.writer.write(self.phase, number, scalars | {"step_s": step_s}))
        self.bar.update(number, {name: scalars[name] for name in SHOWN if name in scalars})

    def checked(self, number: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The metrics on the host; raises NonFiniteError."""
        scalars = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        _require_finite(self.phase, number, scalars)
        return scalars

    def evaluate(self, number: int, state: TrainState, evaluate: Callable[[TrainState], Mapping[str, Any]]) -> None:
        """Scores `state` after step `number`."""
        self.flush()
        began = time.monotonic()
        scalars = self.checked(number, evaluate(state))
        if "score" not in scalars:
            raise ValueError(f"Phase {self.phase}: evaluation gave {sorted(scalars)}, expected a 'score' among them.")
        record = {f"eval_{name}": value for name, value in scalars.items()} | {"eval_s": time.monotonic() - began}
        self.history.append(self.writer.write(self.phase, number, record))
        if self.best is None or scalars["score"] > self.best.score:
            # A copy: the next step donates the state's buffers.
            self.best = Best(number, scalars["score"], jax.tree.map(jnp.copy, state.trainable))
        self._last_time = time.monotonic()


def fit(
    phase: str,
    state: TrainState,
    step: Step | Work,
    batches: Iterable[Any],
    steps: int,
    *,
    writer: MetricsWriter,
    progress: Progress,
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
    evaluate_every: int = 0,
    log_every: int = 1,
    saver: PhaseSaver | None = None,
    profiler: Profiler | None = None,
) -> Fitted:
    """Trains until `steps` steps are done in all (those that `state` has behind it count).

    Metrics are fetched one step late, while the device already runs the next: the loop never waits for a transfer.
    A step that compiles for a second or more after the first two is warned of on the log.

    Args:
        phase: name in the metrics.
        state: its buffers may be donated by `step`.
        step: (state, batch) -> (state, scalars), usually jitted; or a `Work` of several updates.
        batches: at least as many as steps are left.
        steps: number of the last step.
        writer: gets a record every `log_every` steps, and one for every evaluation with names that begin in "eval_".
        progress: shows the loop.
        evaluate: state -> scalars with a "score" (higher is better). It must not donate the state.
        evaluate_every: steps between evaluations; the first is before the first step. 0: only after the last step.
        log_every: steps between records; a record holds the metrics of its own step, and every step is checked.
        saver: saves checkpoints on the way; if it finds one, the phase goes on from there and `state` only says where
            its arrays belong. `batches` must have a position, as a `Loader` has.
        profiler: traces some steps.

    Raises:
        NonFiniteError: a metric became infinite or NaN.
        PreemptedError: the run was asked to stop, and a checkpoint was saved.
        ValueError: too few batches, or an evaluation without a score.
    """
    work: Work = step if isinstance(step, Work) else _Plain(step)  # pyright: ignore[reportAssignmentType]
    resumed = saver.restore(phase, state, work, batches) if saver else None
    place = resumed or PhaseCheckpoint(state, int(state.step) // work.updates)
    state = place.state
    first_number = place.number
    earlier = writer.begin(phase, place.number if resumed or place.number else None)

    def one_step(number: int, state: TrainState, place: PhaseCheckpoint, supply: Iterator[Any], recorder: _Recorder):
        def warm() -> contextlib.AbstractContextManager:
            cold = number <= first_number + WARM_STEPS
            return contextlib.nullcontext() if cold else warn_of_recompilation(f"Phase {phase}, step {number}:")

        buffer, metrics, first = place.buffer, place.metrics, place.updates
        if buffer is None:
            batch = _next(supply, phase, number, steps)
            with warm():
                buffer, metrics = work.prepare(state, batch)
        applied: Mapping[str, Any] = {}
        for index in range(first, work.updates):
            with warm():
                state, applied = work.apply(state, buffer, index)
            if saver and index + 1 < work.updates:
                between = PhaseCheckpoint(state, number - 1, index + 1, recorder.best, buffer, metrics)

                def before(applied: Mapping[str, Any] = applied) -> None:
                    recorder.flush()
                    recorder.checked(number, applied)

                saver.visit(between, batches, before)
        return state, work.finish(state, buffer, {**metrics, **applied})

    if resumed:
        progress.say(f"{phase}: goes on after step {place.number} of {steps}")
    with progress.bar(phase, steps, place.number) as bar, saver.open() if saver else contextlib.nullcontext():
        recorder = _Recorder(phase, steps, log_every, writer, bar, place)
        if evaluate and evaluate_every and not resumed and place.number < steps:
            recorder.evaluate(place.number, state, evaluate)
        supply = iter(batches)
        for number in range(place.number + 1, steps + 1):
            with profiler.step(phase, number) if profiler else contextlib.nullcontext():
                state, metrics = one_step(number, state, place, supply, recorder)
            heartbeat.beat(phase, number)
            recorder.step(number, metrics)
            place = PhaseCheckpoint(state, number)
            if evaluate and (number == steps or (evaluate_every and number % evaluate_every == 0)):
                recorder.evaluate(number, state, evaluate)
            if saver and number < steps:
                saver.visit(dataclasses.replace(place, best=recorder.best), batches, recorder.flush)
        if profiler:
            profiler.close()
        recorder.flush()
    return Fitted(state, recorder.best, earlier + recorder.history)


def _next(supply: Iterator[Any], phase: str, number: int, steps: int) -> Any:
    try:
        return next(supply)
    except StopIteration:
        raise ValueError(f"Phase {phase}: the data ended before step {number} of {steps}.") from None
