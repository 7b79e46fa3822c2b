"""Counts XLA compilations by jax's own events: a step that compiles again after warm-up costs more than it computes."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import jax.monitoring

log = logging.getLogger(__name__)

# One event for every program that is asked for and not in memory, read from the persistent cache or compiled.
EVENT = "/jax/core/compile/backend_compile_duration"


class _Counter:
    """Programs and seconds since the process started to listen."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def __call__(self, event: str, seconds: float, **_: Any) -> None:
        if event == EVENT:
            self.count += 1
            self.seconds += seconds


_counter = _Counter()
jax.monitoring.register_event_duration_secs_listener(_counter)


def compilations() -> int:
    """Programs compiled (or read from the persistent cache) since this module was imported."""
    return _counter.count


def compile_seconds() -> float:
    """Seconds that they took."""
    return _counter.seconds


@contextlib.contextmanager
def warn_of_recompilation(what: str) -> Iterator[None]:
    """Logs a warning if anything is compiled inside, which a warmed-up step should not do."""
    before, seconds = _counter.count, _counter.seconds
    yield
    if _counter.count > before:
        log.warning(
            "%s compiled %d program(s) in %.1f s after warm-up: a shape or dtype changed. Use fewer length buckets, or "
            "warm all of them up.",
            what,
            _counter.count - before,
            _counter.seconds - seconds,
        )
