"""A cell's result as a small JSON file: made when the cell is done, whole or not there, and all that tables read.

It goes by the cell's identity, the hash under which its run folder is kept: recipe, rows, model and rewards' code.
"""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.errors import LamJaxError
from lam_jax.grid.grid import Cell
from lam_jax.pipeline.phases import rl_phase, scores_phase
from lam_jax.runs.metrics import METRICS, read_metrics
from lam_jax.runs.phase_store import shared_phases
from lam_jax.runs.record import read_record
from lam_jax.train.spaces import SPACES

FORMAT = 1
PLAN = "grid.json"  # the grid's cells, beside their results
Record = dict[str, Any]


class GridFilesError(LamJaxError):
    """A file of a grid's results cannot be used."""


def cell_record(cell: Cell, identity: str, command: Sequence[str], run: Path, results: Mapping[str, Any]) -> Record:
    """What a finished run leaves to tables.

    Args:
        cell: which.
        identity: of its run.
        command: that made it.
        run: its folder.
        results: of `run_recipe`.

    Raises:
        GridFilesError: its scores were made before they were kept by prompt.
    """
    shared = shared_phases(run)
    phases = [timing | {"shared": timing["name"] in shared} for timing in results["phases"]]
    flops = {rl_phase(found["task"], SPACES[found["space"]]): found["flops"][-1] for found in results["rl"]}
    return {
        "format": FORMAT,
        "cell": cell.name,
        "identity": identity,
        "recipe_fingerprint": cell.recipe.fingerprint(),
        "axes": dict(cell.axes),
        "seed": cell.recipe.seed,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "environment": results["environment"],
        "seconds": round(sum(phase["seconds"] for phase in phases), 3),
        "seconds_without_shared": round(sum(phase["seconds"] for phase in phases if not phase["shared"]), 3),
        "phases": phases,
        "rl_flops": flops,
        "tasks": results["tasks"],
        "algorithms": {task.name: cell.recipe.rl.algorithm_of(task.name).name for task in cell.recipe.tasks},
        "left_out": [name for name in _PARTS if not getattr(cell.recipe.method, name)],
        "speed": results["speed"],
        "curves": _curves(run, results["rl"]),
        "reach": list(results.get("reach", ())),
        "reach_scores": list(results.get("reach_scores", ())),
        "gain": results["gain"],
        "codes": {name: results["latent"][name] for name in _CODES if name in results["latent"]},
        "scores": _scores(run, results["scores"]),
    }


_PER_STEP = ("reward_mean", "reward_std", "entropy", "code_entropy", "emission_entropy", "kl", "length_mean", "ended")


def _curves(run: Path, found: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Of each policy that was reinforced, sums of cost and what was logged, by logged step."""
    lines, curves = read_metrics(run / METRICS) if found else [], []
    for cost in found:
        phase = rl_phase(cost["task"], SPACES[cost["space"]])
        steps = {line["step"]: line for line in lines if line["phase"] == phase and "rl_step_s" in line}
        logged = [steps[step] for step in cost["steps"]]
        values = {name: [record[name] for record in logged] for name in _PER_STEP if logged and name in logged[0]}
        curves.append({**cost, **values})
    return curves


_PARTS = ("cycle", "project", "text_only")  # switches of the paper's ablations
_CODES = ("random_action_kl_after_stage4", "random_action_kl_after_sft", "cloning_accuracy")
_KEPT = (
    *("task", "space", "phase", "split", "temperature", "prompts", "samples", "mean", "low", "high", "failed"),
    *("skipped", "diversity", "lexical_diversity", "distinct", "length"),
)


def _scores(run: Path, rows: Sequence[Mapping[str, Any]]) -> list[Record]:
    """The rows of results.json, each with its scores by prompt."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    out = []
    for row in rows:
        key = row["task"], row["space"], row["phase"]
        if key not in found:
            place = run / "phases" / scores_phase(row["phase"], row["task"], SPACES[row["space"]])
            found[key] = list(read_record(place)["metadata"]["record"].get("by_prompt", ()))
        if not found[key]:
            raise GridFilesError(
                f"{run}: its scores were measured by a version that did not keep them by prompt. Delete the folder; "
                "the cell is run again."
            )
        own = found[key].pop(0)  # of one phase both are in one order
        if (own["split"], own["temperature"]) != (row["split"], row["temperature"]):
            raise GridFilesError(f"{run}: results.json and the phase of its scores differ in order. Delete the folder.")
        out.append({name: row[name] for name in _KEPT if name in row} | {"by_prompt": own["scores"]})
    return out


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Writes a file of results whole or not at all; a result of another recipe under its name is kept beside it."""
    if "identity" in record and file.exists() and (old := _identity_in(file)) != record["identity"]:
        file.replace(file.with_name(f"{file.stem}.{old[:8]}.json"))
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    new.write_text(_text(record), encoding="utf-8")
    new.replace(file)


def _text(record: Mapping[str, Any]) -> str:
    """JSON with a line for each entry, and for each item of a list."""
    lines = []
    for key, value in record.items():
        if isinstance(value, list) and value:
            inside = ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value)
            text = f"[\n{inside}\n ]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _identity_in(file: Path) -> str:
    try:
        return read_cell(file)["identity"]
    except GridFilesError:
        return "unreadable"


def read_json(file: Path) -> Record:
    """An object in a file.

    Raises:
        GridFilesError: it is missing, or none.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GridFilesError(f"{file}: no such file, expected one that `lam-jax grid` wrote.") from error
    except ValueError as error:
        raise GridFilesError(f"{file}: found no JSON ({error}). Delete it; its cell is collected again.") from error
    if not isinstance(found, dict):
        raise GridFilesError(f"{file}: found a {type(found).__name__}, expected an object. Delete it.")
    return found


def read_cell(file: Path) -> Record:
    """A cell's result.

    Raises:
        GridFilesError: the file cannot be read, or holds something else.
    """
    found = read_json(file)
    if found.get("format") != FORMAT:
        raise GridFilesError(
            f"{file}, key 'format': found {found.get('format')!r}, expected {FORMAT}. It is no result of a cell, or of "
            "another version: move it away, or delete it; its cell is collected again."
        )
    if missing := [key for key in ("cell", "identity", "axes", "seed", "scores", "phases") if key not in found]:
        raise GridFilesError(f"{file}: found no key {missing[0]!r}, expected the result of a cell. Delete it.")
    return found


def read_cells(folder: Path) -> dict[str, Record]:
    """The results in a folder by identity; of two of one identity the one that was finished last.

    Raises:
        GridFilesError: a file that is no result of a cell.
    """
    found: dict[str, Record] = {}
    for file in sorted(folder.glob("*.json")):
        if file.name == PLAN:
            continue
        record = read_cell(file)
        if record.get("finished", "") >= found.get(record["identity"], {}).get("finished", ""):
            found[record["identity"]] = record
    return found
