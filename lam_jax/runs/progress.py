"""Progress of long loops: bars with rate and time left on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text


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


class RateColumn(TextColumn):
    """Steps per second since the bar began."""

    def __init__(self):
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        """The rate of this task."""
        return Text(rate(task.completed - task.fields["origin"], task.elapsed or 0.0), style="progress.data.speed")


class Bar:
    """One loop's progress; made by `Progress.bar`."""

    def __init__(self, name: str, total: int, start: int, console: Console, rich: RichProgress | None, interval: float):
        self.name = name
        self.total = total
        self.start = start
        self._console = console
        self._rich = rich
        self._interval = interval
        self._began = self._printed = time.monotonic()
        self._task: TaskID | None = None
        if rich is not None:
            self._task = rich.add_task(name, total=total, completed=start, origin=start, shown="")

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """`step` steps are done; `values` are shown beside the bar."""
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, completed=step, shown=shown(values or {}))
            return
        now = time.monotonic()
        if step >= self.total or now - self._printed >= self._interval:
            self._printed = now
            done, seconds = step - self.start, now - self._began
            left = duration((self.total - step) * seconds / done) if done else "?"
            line = f"{self.name}  {step}/{self.total}  {rate(done, seconds)}  {left} left  {shown(values or {})}"
            self._console.print(line.rstrip(), soft_wrap=True, highlight=False, markup=False)


class Progress:
    """Where progress goes. `interval` is the least time, in seconds, between two plain lines of one loop."""

    def __init__(self, console: Console | None = None, interval: float = 10.0, enabled: bool = True):
        self.console = console or Console()
        self.interval = interval
        self.enabled = enabled

    def say(self, message: str) -> None:
        """Prints one line, above any bar."""
        if self.enabled:
            self.console.print(message, soft_wrap=True, highlight=False, markup=False)

    @contextlib.contextmanager
    def bar(self, name: str, total: int, start: int = 0) -> Iterator[Bar]:
        """Progress of a loop of `total` steps of which `start` are done."""
        if not self.enabled:
            yield Bar(name, total, start, Console(quiet=True), None, float("inf"))
        elif not self.console.is_terminal:
            yield Bar(name, total, start, self.console, None, self.interval)
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}", style="dim"),
            )
            with RichProgress(*columns, console=self.console) as rich:
                yield Bar(name, total, start, self.console, rich, self.interval)
