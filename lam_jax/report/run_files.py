"""Reads the files that a run leaves behind, `results.json` and `metrics.jsonl`, and checks them.

Everything that the report shows passes through here, so that a half-written or hand-edited file ends in one clear
`RunFilesError` with file and key instead of a stack trace from inside a template.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from lam_jax.report.evaluations import read_evaluations
from lam_jax.report.schema import RUN_AGAIN, Row, RunFilesError, check_results, is_number, shown


@dataclass(frozen=True)
class RunFiles:
    """What the report is made from: the checked results, steps by phase, evaluations, and the folder they came from."""

    folder: Path
    results: Row
    metrics: dict[str, list[Row]]
    evaluations: list[Row]


def read_results(path: Path) -> Row:
    """The checked content of a `results.json`; raises `RunFilesError` if it is missing, not JSON or malformed."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunFilesError(
            f"{path}: byte {error.start}: found {path.read_bytes()[error.start : error.start + 1]!r}, expected UTF-8. "
            f"The file was damaged or edited: delete it and {RUN_AGAIN}, which writes it again."
        ) from error
    except FileNotFoundError as error:
        raise RunFilesError(
            f"{path}: no such file. A report needs the results.json that a run writes at its end. If this is a run's "
            f"folder, {RUN_AGAIN}: it goes on where it stopped."
        ) from error
    try:
        results = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunFilesError(
            f"{path}: line {error.lineno}, column {error.colno}: found {error.msg.lower()}, expected JSON. "
            f"The file was cut off or edited: delete it and {RUN_AGAIN}, which writes it again."
        ) from error
    try:
        return check_results(results)
    except RunFilesError as error:
        raise RunFilesError(f"{path.parent}/{error}") from error


def read_metrics(path: Path) -> dict[str, list[Row]]:
    """Logged steps by phase, in order of the phases' first line, each phase sorted by step.

    A phase that was interrupted and run again logged some steps twice: the later line counts. A last line that is cut
    off (the run was killed while it wrote) is dropped; a broken line anywhere else raises `RunFilesError`.
    """
    if not path.exists():
        return {}
    # Bytes that are no text become marks that are no JSON either.
    lines = path.read_text(encoding="utf-8", errors="backslashreplace").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    phases: dict[str, dict[float, Row]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise RunFilesError(
                f"{path}: line {number}: found {shown(line)}, expected one JSON object a line. Delete that line."
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get("phase"), str) or not is_number(row.get("step")):
            raise RunFilesError(
                f"{path}: line {number}: found {shown(row)}, expected an object with the keys 'phase' (a string) "
                "and 'step' (a number). Delete that line."
            )
        phases.setdefault(row["phase"], {}).setdefault(row["step"], {}).update(row)
    return {phase: [rows[step] for step in sorted(rows)] for phase, rows in phases.items()}


def read_run(run_dir: Path) -> RunFiles:
    """Reads and checks a run folder, or that of an evaluation, which has no results.json."""
    evaluations = read_evaluations(run_dir)
    file = run_dir / "results.json"
    results = read_results(file) if file.exists() or not evaluations else {}
    return RunFiles(run_dir, results, read_metrics(run_dir / "metrics.jsonl"), evaluations)


def curve(rows: list[Row], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one logged scalar, without the lines that lack it or hold a non-finite number."""
    points = [row for row in rows if is_number(row.get(key)) and math.isfinite(row[key])]
    return [float(row["step"]) for row in points], [float(row[key]) for row in points]
