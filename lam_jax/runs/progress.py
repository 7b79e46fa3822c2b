"""Progress of long loops: bars with rate and time left on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from lam_jax.runs.time_left import TimeLeft

WARM_STEPS = 2  # steps that may compile; what a first one leaves behind may lie elsewhere than what it found


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(steps: float, seconds: float) -> str:
    """Speed in the unit that is easier to read: "3.2 steps/s" or "2.5 s/step"."""
    if steps <= 0 or seconds <= 0:
        return "- steps/s"
    return f"{steps / seconds:.1f} steps/s" if steps >= seconds else f"{seconds / steps:.1f} s/step"


def shown(values: Mapping[str, float]) -> str:
    """Metrics in a few characters each."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class Bar:
    """One loop's progress; made by `Progress.bar`. The first steps, which may compile, are left out of its rate."""

    def __init__(
        self,
        name: str,
        total: int,
        start: int,
        console: Console,
        rich: RichProgress | None,
        interval: float,
        later: TimeLeft | None = None,
    ):
        self.name = name
        self.total = total
        self.start = start
        self.step = start
        self._console = console
        self._rich = rich
        self._interval = interval
        self._later = later
        self._printed = time.monotonic()
        self._warm: tuple[int, float] | None = None
        self._task: TaskID | None = None
        if rich is not None:
            fields = {"rate": "", "left": "", "shown": ""}
            self._task = rich.add_task(name, total=total, completed=start, **fields)  # pyright: ignore[reportArgumentType]

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """`step` steps are done; `values` are shown beside the bar."""
        self.step, now = step, time.monotonic()
        done, seconds = (step - self._warm[0], now - self._warm[1]) if self._warm else (0, 0.0)
        if self._warm is None and step - self.start >= WARM_STEPS:
            self._warm = step, now
        speed = rate(done, seconds) if done else ""
        left = self._left((self.total - step) * seconds / done) if done and step < self.total else ""
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, completed=step, rate=speed, left=left, shown=shown(values or {}))
        elif step >= self.total or now - self._printed >= self._interval:
            self._printed = now
            parts = (f"{self.name}  {step}/{self.total}", speed, left, shown(values or {}))
            self._console.print("  ".join(filter(None, parts)), soft_wrap=True, highlight=False, markup=False)

    def _left(self, seconds: float) -> str:
        """Time left in this loop and, where that is known, in the run."""
        run = "" if self._later is None else f" ({self._later.and_also(seconds)} in all)"
        return f"{duration(seconds)} left{run}"


class Progress:
    """Where progress goes.

    Attributes:
        interval: least time, in seconds, between two plain lines of one loop.
        after: loop's name -> time that what comes after it will take; None: nothing is known of that.
        steps: of each loop that is over, the number that it did.
    """

    def __init__(self, console: Console | None = None, interval: float = 10.0, enabled: bool = True):
        self.console = console or Console()
        self.interval = interval
        self.enabled = enabled
        self.after: Callable[[str], TimeLeft | None] = lambda name: None
        self.steps: dict[str, int] = {}

    def say(self, message: str) -> None:
        """Prints one line, above any bar."""
        if self.enabled:
            self.console.print(message, soft_wrap=True, highlight=False, markup=False)

    @contextlib.contextmanager
    def bar(self, name: str, total: int, start: int = 0) -> Iterator[Bar]:
        """Progress of a loop of `total` steps of which `start` are done."""
        later = self.after(name)
        if not self.enabled:
            bar = Bar(name, total, start, Console(quiet=True), None, float("inf"))
            yield bar
        elif not self.console.is_terminal:
            bar = Bar(name, total, start, self.console, None, self.interval, later)
            yield bar
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}", style="progress.data.speed"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}", style="progress.remaining"),
                TextColumn("{task.fields[shown]}", style="dim"),
            )
            with RichProgress(*columns, console=self.console) as rich:
                bar = Bar(name, total, start, self.console, rich, self.interval, later)
                yield bar
        self.steps[name] = bar.step - start
