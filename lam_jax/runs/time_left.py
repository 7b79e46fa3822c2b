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
        left = self._seconds(self.phases[self._places[name] :])
        return text if left is None else f"{text}, {about(left)} left"

    def after(self, name: str) -> float | None:
        """Seconds that the phases after this one will take; None while one of them is of a kind not yet measured."""
        if name not in self._places:
            return None
        return self._seconds(self.phases[self._places[name] + 1 :])

    def _seconds(self, phases: Sequence[ScheduledPhase]) -> float | None:
        times = [self._of(phase) for phase in phases]
        return None if None in times else sum(time for time in times if time is not None)

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


def about(seconds: float) -> str:
    """A rough duration: "about 40 s", "about 4 min", "about 2.5 h"."""
    if seconds < 90:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h".replace(".0 h", " h")
