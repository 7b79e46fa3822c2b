"""Which phase of how many a run is in, and how long the rest will take, from what was measured. No guesses."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True)
class ScheduledPhase:
    """A phase that a run will come to.

    Attributes:
        name: of the phase.
        kind: phases of one kind take alike long for a step, or altogether where they have none; None: too short to
            count.
        steps: training steps; None: it has none.
    """

    name: str
    kind: str | None
    steps: int | None = None


@runtime_checkable
class Measured(Protocol):
    """A phase that is over, such as `lam_jax.runs.run.PhaseResult`."""

    @property
    def seconds(self) -> float:
        """Wall-clock time."""
        ...

    @property
    def compile_seconds(self) -> float:
        """Of which XLA compiled."""
        ...

    @property
    def steps(self) -> int | None:
        """Training steps that were done in that time; None: it has none."""
        ...


@dataclasses.dataclass(frozen=True)
class TimeLeft:
    """Seconds that some phases will take; `whole`: of all of them, else of those whose kind was measured."""

    seconds: float
    whole: bool

    def __str__(self) -> str:
        return f"{'about' if self.whole else 'at least'} {roughly(self.seconds)}"

    def and_also(self, seconds: float) -> "TimeLeft":
        """With a phase that is known to take so long."""
        return TimeLeft(self.seconds + seconds, self.whole)


class Schedule:
    """The phases of a run, in order.

    Args:
        phases: all of them.
        done: those that are over, by name; it grows while the run goes on.
    """

    def __init__(self, phases: Sequence[ScheduledPhase], done: Mapping[str, Measured]):
        self.phases, self.done = tuple(phases), done
        self._places = {phase.name: index for index, phase in enumerate(self.phases)}

    def begins(self, name: str) -> str | None:
        """What is said when a phase begins: "phase 7 of 25: rl_latent_help, about 4 min left"; None: not planned."""
        if name not in self._places:
            return None
        text = f"phase {self._places[name] + 1} of {len(self.phases)}: {name}"
        left = self._left(self.phases[self._places[name] :])
        return f"{text}, {left} left" if left else text

    def after(self, name: str) -> TimeLeft | None:
        """Time of the phases after this one; None where nothing is known of them, or of this one."""
        if name not in self._places:
            return None
        return self._left(self.phases[self._places[name] + 1 :])

    def _left(self, phases: Sequence[ScheduledPhase]) -> TimeLeft | None:
        times = [self._of(phase) for phase in phases]
        known = sum(time for time in times if time is not None)
        whole = None not in times
        return TimeLeft(known, whole) if whole or known else None

    def _of(self, phase: ScheduledPhase) -> float | None:
        if phase.kind is None:
            return 0.0
        for other in reversed(self.phases):
            found = self.done.get(other.name)
            if found is None or other.kind != phase.kind:
                continue
            if phase.steps is None:
                return found.seconds
            if found.steps:
                # Another task has other shapes, so that it compiles again.
                return found.compile_seconds + (found.seconds - found.compile_seconds) / found.steps * phase.steps
        return None


def roughly(seconds: float) -> str:
    """A rough duration: "40 s", "4 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(10, 10 * round(seconds / 10))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h".replace(".0 h", " h")
