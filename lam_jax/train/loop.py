"""The one training loop, which every stage and both RL updates run in."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lam_jax.errors import RewardError
from lam_jax.hosts import heartbeat
from lam_jax.hosts.compilation import warn_of_recompilation
from lam_jax.runs.phase_checkpoint import Ahead, Best, PhaseCheckpoint, Work
from lam_jax.runs.progress import WARM_STEPS, Bar
from lam_jax.runs.tools import Tools
from lam_jax.train.recorder import Evaluate, Recorder
from lam_jax.train.state import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """How long to train and what to look at on the way.

    Attributes:
        name: in the metrics.
        steps: number of the last step.
        log_every: steps between records; a record holds the metrics of its own step, and every step is checked.
        evaluate: state -> scalars with a "score" (higher is better). It must not donate the state.
        evaluate_every: steps between evaluations; the first is before the first step. 0: only after the last step.
        keep_best: a copy of the weights with the highest score is held, on the host.
    """

    name: str
    steps: int
    log_every: int = 1
    evaluate: Evaluate | None = None
    evaluate_every: int = 0
    keep_best: bool = False

    def is_logged(self, number: int) -> bool:
        """Step `number` gets a record."""
        return number % self.log_every == 0 or number == self.steps

    def is_evaluated(self, number: int) -> bool:
        """There is an evaluation after step `number`."""
        return number == self.steps or (self.evaluate_every > 0 and number % self.evaluate_every == 0)


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


def fit(phase: Phase, state: TrainState, step: Step | Work, batches: Iterable[Any], tools: Tools) -> Fitted:
    """Trains until `phase.steps` steps are done in all (those that `state` has behind it count).

    Metrics are fetched one step late, while the device already runs the next: the loop never waits for a transfer.
    A step that compiles for a second or more after the first two is warned of on the log.

    Args:
        phase: how long, and what is looked at.
        state: its buffers may be donated by `step`. Where a saver finds a checkpoint, it only says where arrays belong.
        step: (state, batch) -> (state, scalars), usually jitted; or a `Work` of several updates.
        batches: at least as many as steps are left; with a saver they must have a position, as a `Loader` has.
        tools: writer of the records, progress, and optionally a saver and a profiler.

    Raises:
        NonFiniteError: a metric became infinite or NaN.
        PreemptedError: the run was asked to stop, and a checkpoint was saved.
        RewardError: a reward function raised an exception, or (nearly) no reward could be used for some time; a
            checkpoint was saved.
        ValueError: too few batches, or an evaluation without a score.
    """
    work: Work = step if isinstance(step, Work) else _Plain(step)  # pyright: ignore[reportAssignmentType]
    saver = tools.saver
    resumed = saver.restore(phase.name, state, work, batches) if saver else None
    place = resumed or PhaseCheckpoint(state, int(state.step) // work.updates)
    goes_on = resumed or place.number
    earlier = tools.writer.begin(phase.name, place.number if goes_on else None)
    for log in tools.logs:
        log.begin(phase.name, place.begun if goes_on else None)
    if resumed:
        tools.progress.say(f"{phase.name}: goes on after step {place.number} of {phase.steps}")
    with (
        tools.progress.bar(phase.name, phase.steps, place.number) as bar,
        saver.open() if saver else contextlib.nullcontext(),
    ):
        loop = _Loop(phase, work, batches, tools, place, bar)
        if phase.evaluate and phase.evaluate_every and not resumed and place.number < phase.steps:
            loop.recorder.evaluate(place.number, place.state, phase.evaluate)
        if place.pending is not None:
            loop.go_on_with(place.pending)
        if place.owes_evaluation:
            loop.evaluate(place.number)
        loop.run()
    return Fitted(loop.place.state, loop.recorder.best, earlier + loop.recorder.history)


class _Loop:
    """A phase under way.

    Attributes:
        place: where it stands, as checkpoints hold it.
        recorder: of its metrics.
    """

    def __init__(
        self, phase: Phase, work: Work, batches: Iterable[Any], tools: Tools, place: PhaseCheckpoint, bar: Bar
    ):
        self.phase, self.work, self.batches, self.tools, self.place = phase, work, batches, tools, place
        self.recorder = Recorder(phase.name, phase.is_logged, tools.writer, bar, place.best, phase.keep_best)
        self._supply = iter(batches)
        self._warm_from = place.number + WARM_STEPS + 1

    def run(self) -> None:
        """The steps that are left."""
        phase, recorder, profiler = self.phase, self.recorder, self.tools.profiler
        for number in range(self.place.number + 1, phase.steps + 1):
            with profiler.step(phase.name, number) if profiler else contextlib.nullcontext():
                metrics = self._step(number)
            heartbeat.beat(phase.name, number)
            recorder.step(number, metrics)
            if phase.is_evaluated(number):
                self.evaluate(number)
            if number < phase.steps:
                self._visit(self.place, recorder.flush)
        if profiler:
            profiler.close()
        recorder.flush()

    def evaluate(self, number: int) -> None:
        """Scores the state after step `number`.

        Raises:
            RewardError: no reward could be had; the state is saved, and a run that goes on begins with this evaluation.
        """
        if self.phase.evaluate is None:
            return
        try:
            self.recorder.evaluate(number, self.place.state, self.phase.evaluate)
        except RewardError:
            self.place = dataclasses.replace(self.place, owes_evaluation=True)
            self._keep(self._position())
            raise
        self.place = dataclasses.replace(self.place, owes_evaluation=False)

    def go_on_with(self, pending: Any) -> None:
        """What the run had begun for the next step that a batch is taken for, when the checkpoint was written."""
        peek = self.batches.peek  # pyright: ignore[reportAttributeAccessIssue]
        self.work.restore(pending, peek(), self.place.begun + 1)  # pyright: ignore[reportAttributeAccessIssue]

    def _step(self, number: int) -> dict[str, Any]:
        """What is left of step `number`: all its updates, or those after the checkpoint that it goes on from."""
        work, state = self.work, self.place.state
        buffer, metrics = self.place.buffer, self.place.metrics
        if buffer is None:
            before = self._position()
            batch = self._next(number)
            try:
                with self._watched(number):
                    buffer, metrics = work.prepare(state, batch)
                metrics = {**getattr(self.batches, "noted", {}), **metrics}
            except RewardError:
                self._keep(before)
                raise
        applied: Mapping[str, Any] = {}
        for index in range(self.place.updates, work.updates):
            with self._watched(number):
                state, applied = work.apply(state, buffer, index)
            if index + 1 < work.updates:
                between = PhaseCheckpoint(state, number - 1, index + 1, None, buffer, metrics, pending=self._pending())
                self._visit(between, functools.partial(self._check, number, applied))
        self.place = PhaseCheckpoint(state, number, pending=self._pending())
        return work.finish(state, buffer, {**metrics, **applied})

    def _pending(self) -> Any:
        return self.work.pending() if self.tools.saver and isinstance(self.work, Ahead) else None

    def _position(self) -> dict[str, Any]:
        return self.batches.get_state() if self.tools.saver else {}  # pyright: ignore[reportAttributeAccessIssue]

    def _keep(self, position: dict[str, Any]) -> None:
        """Saves what is done, so that a corrected reward goes on with the batch that it failed on."""
        if self.tools.saver and self.place.number:
            self.recorder.flush()
            self.batches.set_state(position)  # pyright: ignore[reportAttributeAccessIssue]
            self.tools.saver.save(dataclasses.replace(self.place, best=self.recorder.best), self.batches)

    def _next(self, number: int) -> Any:
        try:
            return next(self._supply)
        except StopIteration:
            phase = self.phase
            raise ValueError(f"Phase {phase.name}: the data ended before step {number} of {phase.steps}.") from None

    def _watched(self, number: int) -> contextlib.AbstractContextManager:
        """Inside, a compilation is warned of once the programs should be there."""
        if number < self._warm_from:
            return contextlib.nullcontext()
        return warn_of_recompilation(f"Phase {self.phase.name}, step {number}:")

    def _check(self, number: int, applied: Mapping[str, Any]) -> None:
        self.recorder.flush()
        self.recorder.checked(number, applied)

    def _visit(self, place: PhaseCheckpoint, before: Callable[[], None]) -> None:
        if self.tools.saver:
            self.tools.saver.visit(dataclasses.replace(place, best=self.recorder.best), self.batches, before)


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
