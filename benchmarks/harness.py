"""Interleaved repeats of programs under test, on a machine that others may be using.

Each round runs every candidate once, in turning order, so that drift of the machine falls on all alike. While a
candidate runs, the CPU time of other processes is watched; a contended repeat is thrown away and repeated.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import psutil

Run = Callable[[], Any]


class Clock(Protocol):
    """Where times come from; tests put a made-up one here."""

    def now(self) -> float:
        """Seconds."""
        ...

    def others(self) -> float:
        """CPU seconds that all other processes have used so far."""
        ...


class SystemClock:
    """The monotonic clock, and the machine's busy time less that of this process and its children."""

    def __init__(self) -> None:
        self.process = psutil.Process()

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def others(self) -> float:
        """CPU seconds, stolen time of a virtual machine included."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # Linux counts guest time in user time as well.
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        own = self.process.cpu_times()
        return sum(times) - idle - guests - (own.user + own.system + own.children_user + own.children_system)


@dataclasses.dataclass(frozen=True)
class Repeat:
    """One timed run."""

    seconds: float
    others: float  # mean number of cores that other processes kept busy


@dataclasses.dataclass
class Times:
    """What a comparison found: seconds of each candidate, round by round."""

    seconds: dict[str, list[float]]
    thrown_away: int = 0
    contended: int = 0  # repeats kept although contended, since patience had run out


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a comparison is run.

    Attributes:
        repeats: rounds.
        warm_up: runs of each candidate before, which are not timed (the first one compiles).
        limit: cores of other processes above which a repeat is contended.
        slack: CPU seconds of others that are forgiven whatever the repeat's length: clock ticks, kernel threads.
        patience: repeats that may be thrown away before contended ones are kept (and counted).
        settle: seconds of rest before each run; another library's spinning threads go to sleep in it.
    """

    repeats: int = 9
    warm_up: int = 2
    limit: float = 0.1
    slack: float = 0.05
    patience: int = 27
    settle: float = 0.25

    def __post_init__(self):
        if self.repeats < 1 or self.warm_up < 1:
            raise ValueError(f"repeats and warm_up must be at least 1, got {self.repeats} and {self.warm_up}.")


def timed(run: Run, clock: Clock) -> Repeat:
    """One run, its results waited for."""
    others, start = clock.others(), clock.now()
    jax.block_until_ready(run())
    seconds = clock.now() - start
    return Repeat(seconds, max(0.0, clock.others() - others) / max(seconds, 1e-9))


def compare(candidates: Mapping[str, Run], settings: Settings, clock: Clock | None = None) -> Times:
    """Times all candidates, interleaved."""
    clock = clock or SystemClock()
    for run in candidates.values():
        for _ in range(settings.warm_up):
            jax.block_until_ready(run())
    times = Times({name: [] for name in candidates})
    names = list(candidates)
    for turn in range(settings.repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times.seconds[name].append(_clean_repeat(candidates[name], settings, clock, times).seconds)
    return times


def _clean_repeat(run: Run, settings: Settings, clock: Clock, times: Times) -> Repeat:
    while True:
        time.sleep(settings.settle)
        repeat = timed(run, clock)
        if repeat.others <= settings.limit + settings.slack / max(repeat.seconds, 1e-9):
            return repeat
        if times.thrown_away >= settings.patience:
            times.contended += 1
            return repeat
        times.thrown_away += 1
