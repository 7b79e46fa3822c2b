"""Which kernels a program spends its time in, as text, from jax's profiler."""

import collections
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

TOP = 80


def profiled(run: Callable[[], Any], path: Path, steps: int) -> float:
    """Runs under the profiler and writes the kernels that took most time; seconds of the run.

    Args:
        run: waits for its results.
        path: of the text.
        steps: the figures are divided by it: steps of a decode loop.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with jax.profiler.trace(folder):
            run()
            seconds = time.perf_counter() - began
        files = sorted(Path(folder).rglob("*.xplane.pb"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(table(_events(files), seconds, steps), encoding="utf-8")
    return seconds


def _events(files: Iterable[Path]) -> Iterable[tuple[str, float]]:
    """(name, seconds) of everything that ran on a device."""
    for file in files:
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if "/device:" not in plane.name:
                continue
            for line in plane.lines:
                if line.name.startswith("Stream") or line.name == "XLA Ops":
                    for event in line.events:
                        yield event.name, event.duration_ns / 1e9


def table(events: Iterable[tuple[str, float]], seconds: float, steps: int) -> str:
    """Kernels by the time that they took; equal ones of several layers have one name."""
    total: dict[str, float] = collections.defaultdict(float)
    count: dict[str, int] = collections.defaultdict(int)
    for name, took in events:
        kind = re.sub(r"_0x[0-9a-f]+|\.\d+$", "", name)[:110]
        total[kind] += took
        count[kind] += 1
    busy = sum(total.values())
    lines = [
        f"{seconds:.4f} s, of them kernels {busy:.4f} s; divided by {steps} steps: "
        f"{1e6 * seconds / steps:.1f} us, {1e6 * busy / steps:.1f} us, {sum(count.values()) / steps:.1f} kernels",
        f"{'us a step':>10} {'share':>6} {'runs':>8} {'us each':>9}  kernel",
    ]
    for kind in sorted(total, key=lambda kind: -total[kind])[:TOP]:
        each = 1e6 * total[kind] / count[kind]
        share = total[kind] / busy if busy else 0.0
        lines.append(f"{1e6 * total[kind] / steps:10.2f} {share:6.1%} {count[kind] / steps:8.2f} {each:9.2f}  {kind}")
    return "\n".join(lines) + "\n"
