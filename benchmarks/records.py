"""The JSON that a benchmark writes: {"environment": .., "records": [{name, value, unit, floor, interval, ..}]}."""

import dataclasses
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from benchmarks.statistics import Estimate, Target

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class Record:
    """One figure.

    Attributes:
        name: stable, dotted.
        value: median.
        unit: "s", "tokens/s", "ratio", "share", "count", "bytes", "FLOP" or "GB/s" ...
        interval: 95 % bootstrap interval of the median; None for what was counted.
        floor: what the hardware allows at best, in the same unit; None where there is none.
        repeats: timed runs.
        counted: from sizes or from the compiled program, not measured.
        target: the threshold it has to keep, if any, and the verdict.
        note: what a reader has to know.
    """

    name: str
    value: float
    unit: str
    interval: tuple[float, float] | None = None
    floor: float | None = None
    repeats: int = 0
    counted: bool = False
    target: Mapping[str, Any] | None = None
    note: str = ""

    @classmethod
    def measured(
        cls, name: str, found: Estimate, unit: str, floor: float | None = None, target: Target | None = None, note=""
    ) -> "Record":
        """A record of repeats, judged where there is a target."""
        judged = None
        if target is not None:
            judged = {"threshold": target.threshold, "side": target.side, "verdict": target.verdict(found)}
        return cls(name, found.value, unit, found.interval, floor, found.repeats, target=judged, note=note)


def environment(**more: Any) -> dict[str, Any]:
    """Device, versions and commit."""
    device = jax.devices()[0]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        **more,
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    return f"{head} with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else head


def document(records: list[Record], environment: Mapping[str, Any]) -> dict[str, Any]:
    """What is written, checked.

    Raises:
        ValueError: two records of one name, a number that is not finite, or an interval that does not hold the value.
    """
    seen: set[str] = set()
    for record in records:
        if record.name in seen:
            raise ValueError(f"Record {record.name!r} occurs twice; names have to be stable and unique.")
        seen.add(record.name)
        numbers = [record.value, *(record.interval or ()), *([] if record.floor is None else [record.floor])]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"Record {record.name!r} holds {numbers}, expected finite numbers.")
        if record.interval and not record.interval[0] <= record.value <= record.interval[1]:
            raise ValueError(f"Record {record.name!r}: {record.value} lies outside its interval {record.interval}.")
    return {"environment": dict(environment), "records": [dataclasses.asdict(r) for r in records]}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
