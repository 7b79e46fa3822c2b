"""Seconds of a program on a device: the first run compiles, a second one settles, the others count."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from lam_jax.hosts.compilation import CompileClock

Run = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Timed:
    """What running a program several times told.

    Attributes:
        seconds: of each run that counts, results waited for.
        results: of each run that counts.
        compile_s: seconds of compilation in the first run.
        recompiled: programs compiled in runs that count; should be 0.
    """

    seconds: list[float]
    results: list[Any]
    compile_s: float
    recompiled: int

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)


def timed(run: Run, repeats: int = 3, keep: bool = False) -> Timed:
    """Runs a program twice for nothing and `repeats` times for the clock. `keep`: results too, not only seconds."""
    with CompileClock() as first:
        jax.block_until_ready(run())
    jax.block_until_ready(run())
    seconds, results = [], []
    with CompileClock() as later:
        for _ in range(repeats):
            began = time.perf_counter()
            result = jax.block_until_ready(run())
            seconds.append(time.perf_counter() - began)
            results.append(result if keep else None)
    return Timed(seconds, results, first.seconds, later.programs)


def peak_gib() -> float | None:
    """The most memory that this process has had on the device, in GiB; None where the platform does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**30
