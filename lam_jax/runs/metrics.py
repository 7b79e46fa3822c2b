"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and the same scalars for other sinks.

Wall-clock fields are "time" (seconds since 1970) and every name that ends in "_s" (seconds; "_per_s" rates too), but
for the names of a reward's parts, `reward/NAME`, and of failures, `failed_rewards/KIND`. Without them, two runs with
one seed write equal records: `comparable` drops them.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.runs.jsonl import JsonLines, Record, broken, read_lines
from lam_jax.runs.sinks import Sink, open_sinks

METRICS = "metrics.jsonl"  # in a run's folder
RESERVED = ("phase", "step", "time")
REWARD_PART = "reward/"  # begins the metric of a named part of a reward
FAILED_PART = "failed_rewards/"  # begins the metric of a kind of failed reward calls


def is_wall_clock(name: str) -> bool:
    """Whether a field depends on when and how fast the run was, not on what it computed."""
    return name == "time" or (name.endswith("_s") and not name.startswith((REWARD_PART, FAILED_PART)))


def comparable(record: Mapping[str, Any]) -> Record:
    """A record without its wall-clock fields."""
    return {name: value for name, value in record.items() if not is_wall_clock(name)}


def read_metrics(path: Path) -> list[Record]:
    """All complete records of a metrics file, in order; none if there is no such file.

    Raises:
        BrokenLinesError: a line that is no record, other than a last one that was cut off.
    """
    records = list(read_lines(path))
    for number, record in enumerate(records, start=1):
        if not (isinstance(record, dict) and {"phase", "step"} <= set(record)):
            raise broken(path, number, json.dumps(record).encode(), "an object with the keys 'phase' and 'step'")
    return records


class MetricsWriter:
    """Appends records to `folder/metrics.jsonl` (each safely on disk when `write` returns) and hands them to sinks.

    With several processes only the first writes: give the others `enabled=False`.

    Args:
        folder: of the run.
        enabled: whether anything is written.
        sinks: closed with the writer; default: TensorBoard, in `folder/tensorboard`.
    """

    def __init__(self, folder: Path, enabled: bool = True, sinks: Sequence[Sink] | None = None):
        self.path = Path(folder) / METRICS
        self.enabled = enabled
        self.sinks: Sequence[Sink] = ()
        self._closed = False
        if enabled:
            read_metrics(self.path)  # a broken line is named here, not hours later
            self._lines = JsonLines(self.path)
            self.sinks = open_sinks(("tensorboard",), Path(folder), {}) if sinks is None else sinks

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def begin(self, phase: str, step: int | None = None) -> list[Record]:
        """Makes `phase` start anew, or go on after `step`: removes what an interrupted run logged past it.

        Returns:
            The phase's records that stay, oldest first.
        """

        def stays(record: Record) -> bool:
            # A phase that starts anew evaluates before its first step again: nothing of the interrupted one stays.
            return record["phase"] != phase or (step is not None and record["step"] <= step)

        if self.enabled:
            self._lines.keep(stays)
            for sink in self.sinks:
                sink.begin(phase, step)
        return [record for record in read_metrics(self.path) if record["phase"] == phase and stays(record)]

    def write(self, phase: str, step: int, scalars: Mapping[str, Any]) -> Record:
        """Appends one record and returns it. Infinite and NaN values become null, which JSON has.

        Raises:
            ValueError: a reserved name, or a value that is not a scalar.
            NoSpaceError: the disk is full; the file keeps its whole lines.
        """
        record: Record = {"phase": phase, "step": int(step), "time": round(time.time(), 3)}
        for name, value in scalars.items():
            if name in RESERVED:
                raise ValueError(f"Metric name {name!r} is reserved: {RESERVED} are filled in by the writer.")
            try:
                number = value if isinstance(value, int) else float(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"Metric {name!r} of phase {phase}: found {value!r}, expected a scalar.") from error
            record[name] = number if math.isfinite(number) else None
        if self.enabled:
            self._lines.append([record])
            curves = {n: value for n, value in record.items() if n not in RESERVED and value is not None}
            for sink in self.sinks:
                sink.write(phase, record["step"], curves, record["time"])
        return record

    def close(self) -> None:
        """Closes all files and sinks; a second time does nothing."""
        if self.enabled and not self._closed:
            self._closed = True
            for sink in self.sinks:
                sink.close()
            self._lines.close()
