"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and the same scalars for TensorBoard.

Wall-clock fields are "time" (seconds since 1970) and every name that ends in "_s" (seconds; "_per_s" rates too).
Without them, two runs with one seed write equal records: `comparable` drops them.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lam_jax.errors import LamJaxError, NoSpaceError
from lam_jax.runs.disk import is_no_space

Record = dict[str, Any]
RESERVED = ("phase", "step", "time")


class MetricsFileError(LamJaxError, ValueError):
    """A line of a metrics file that is no record; the message names file, line and what to do."""


def is_wall_clock(name: str) -> bool:
    """Whether a field depends on when and how fast the run was, not on what it computed."""
    return name == "time" or name.endswith("_s")


def comparable(record: Mapping[str, Any]) -> Record:
    """A record without its wall-clock fields."""
    return {name: value for name, value in record.items() if not is_wall_clock(name)}


def _records(path: Path) -> Iterator[Record]:
    """Complete records of a file; a last line that a killed process left unfinished is passed over."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise _broken(path, number, line, "JSON") from error
        if not (isinstance(record, dict) and {"phase", "step"} <= set(record)):
            raise _broken(path, number, line, "an object with the keys 'phase' and 'step'")
        yield record


def _broken(path: Path, number: int, line: bytes, expected: str) -> MetricsFileError:
    found = line[:60].decode(errors="backslashreplace")
    return MetricsFileError(f"{path}: line {number}: found {found!r}, expected {expected}. Delete that line.")


def read_metrics(path: Path) -> list[Record]:
    """All complete records of a metrics file, in order; none if there is no such file.

    Raises:
        MetricsFileError: a line that is no record, other than a last one that was cut off.
    """
    return list(_records(path)) if path.exists() else []


def _board(folder: Path, purge_step: int | None = None) -> Any:
    from tensorboardX import SummaryWriter  # here, so that training without a run folder does without it

    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=10)


class MetricsWriter:
    """Appends records to `folder/metrics.jsonl` (each safely on disk when `write` returns) and to `folder/tensorboard`.

    With several processes only the first writes: give the others `enabled=False`.
    """

    def __init__(self, folder: Path, enabled: bool = True):
        self.path = Path(folder) / "metrics.jsonl"
        self.tensorboard = Path(folder) / "tensorboard"
        self.enabled = enabled
        self._boards: dict[str, Any] = {}
        if enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rewrite(read_metrics(self.path))
            self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def begin(self, phase: str, step: int | None = None) -> list[Record]:
        """Makes `phase` start anew, or go on after `step`: removes what an interrupted run logged past it.

        TensorBoard files cannot be cut: those of a phase that starts anew are deleted, and those of one that resumes in
        the middle get a marker that tells TensorBoard to hide the later steps.

        Returns:
            The phase's records that stay, oldest first.
        """
        records = read_metrics(self.path)
        # A phase that starts anew evaluates before its first step again: nothing of the interrupted one stays.
        kept = [r for r in records if r["phase"] != phase or (step is not None and r["step"] <= step)]
        if self.enabled:
            if phase in self._boards:
                self._boards.pop(phase).close()
            folder = self.tensorboard / phase
            if step is None and folder.exists():
                shutil.rmtree(folder)
            if len(kept) < len(records):
                self._file.close()
                self._rewrite(kept)
                self._file = self.path.open("a", encoding="utf-8")
            purge = None if step is None else step + 1
            self._boards[phase] = _board(folder, purge)
        return [record for record in kept if record["phase"] == phase]

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
            self._append(json.dumps(record))
            self._to_tensorboard(record)
        return record

    def close(self) -> None:
        """Closes all files."""
        for board in self._boards.values():
            board.close()
        self._boards = {}
        if self.enabled:
            self._file.close()

    def _append(self, line: str) -> None:
        end = self.path.stat().st_size
        try:
            self._file.write(line + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            os.truncate(self.path, end)
            if is_no_space(error):
                raise NoSpaceError(
                    f"{self.path}: no space to log step metrics. Free space on that disk, then run the same command "
                    "again: it goes on from the last checkpoint."
                ) from error
            raise

    def _to_tensorboard(self, record: Record) -> None:
        phase = record["phase"]
        if phase not in self._boards:
            self._boards[phase] = _board(self.tensorboard / phase)
        for name, value in record.items():
            if name not in RESERVED and value is not None:
                self._boards[phase].add_scalar(name, value, record["step"], walltime=record["time"])

    def _rewrite(self, records: list[Record]) -> None:
        """Replaces the file atomically."""
        new = self.path.with_suffix(".jsonl.new")
        with new.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
