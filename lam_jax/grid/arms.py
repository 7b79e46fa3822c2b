"""Results of cells as arms: agents that differ in nothing but the seed, with their scores by seed and prompt."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lam_jax.grid.grid import SEED
from lam_jax.grid.published import published_diversity, published_score
from lam_jax.grid.record import PLAN, GridFilesError, read_cells, read_json

Labels = dict[str, str]
SPACE, PHASE = "space", "phase"
_TASKS, _SPACES = ("task", "tasks"), ("space", "spaces")  # axes that say again whose a score is


@dataclasses.dataclass(frozen=True)
class Block:
    """What scores have in common that can be compared: the task, the split and the temperature of the answers."""

    task: str
    split: str
    temperature: float


@dataclasses.dataclass(frozen=True)
class Arm:
    """Agents of several seeds.

    Attributes:
        labels: values of the axes, and of "space" and "phase".
        scores: mean over a prompt's scored answers, by seed and row.
        diversity: by seed, where it was measured; lexical or not, see `lexical`.
        lexical: diversity counts words.
        paper: its published score; None: none.
        paper_diversity: the same of diversity.
    """

    labels: Labels
    scores: Mapping[int, Mapping[str, float]]
    diversity: Mapping[int, float]
    lexical: bool
    paper: float | None
    paper_diversity: float | None

    def table(self, seeds: Sequence[int], rows: Sequence[str]) -> np.ndarray:
        """Its scores [S, P], NaN where there is none."""
        return np.array([[self.scores.get(seed, {}).get(row, np.nan) for row in rows] for seed in seeds])

    @property
    def rows(self) -> list[str]:
        """All prompts that have a score, sorted."""
        return sorted({row for scores in self.scores.values() for row in scores})


@dataclasses.dataclass(frozen=True)
class Results:
    """What a folder of results holds of a grid.

    Attributes:
        name: of the grid.
        records: of its cells that are done, each with the grid's axes.
        missing: names of cells that are not done.
        others: files of results of other grids or of earlier recipes.
    """

    name: str
    records: Sequence[Mapping[str, Any]]
    missing: Sequence[str]
    others: int


def read_results(folder: Path) -> Results:
    """The results in a folder, or in `results/` inside a grid's folder; without a plan all files are one grid.

    Raises:
        GridFilesError: no results, or a file that is none.
    """
    if not folder.is_dir():
        raise GridFilesError(f"{folder}: there is no such folder, expected one with the results of `lam-jax grid`.")
    folder = folder / "results" if (folder / "results" / PLAN).exists() else folder
    found = read_cells(folder)
    if not (folder / PLAN).exists():
        if not found:
            raise GridFilesError(f"{folder}: found no results, expected files that `lam-jax grid` wrote.")
        return Results(folder.name, list(found.values()), (), 0)
    plan = read_json(folder / PLAN)
    records, missing, listed = [], [], {entry["identity"] for entry in plan["cells"]}
    for entry in plan["cells"]:
        record = found.get(entry["identity"])
        if record is None:
            missing.append(entry["cell"])
        else:
            records.append({**record, "cell": entry["cell"], "axes": entry["axes"]})
    return Results(plan["name"], records, missing, len(set(found) - listed))


def arms_of(records: Iterable[Mapping[str, Any]]) -> dict[Block, list[Arm]]:
    """The arms of each block, in the order of the cells.

    Raises:
        GridFilesError: two cells of one seed have the same labels.
    """
    records = list(records)
    dropped, of_axes = _repeated_axes(records), _axes_say_space(records)
    found: dict[Block, dict[tuple[tuple[str, str], ...], Arm]] = {}
    for record in records:
        axes = {name: str(value) for name, value in record["axes"].items() if name not in dropped}
        for row in record["scores"]:
            block = Block(row["task"], row["split"], float(row["temperature"]))
            labels = {**axes, **({} if of_axes else {SPACE: row["space"]}), PHASE: row["phase"]}
            arm = found.setdefault(block, {}).setdefault(tuple(labels.items()), _empty(labels, record, row))
            if record["seed"] in arm.scores:
                raise GridFilesError(
                    f"Cell {record['cell']}: another cell has the same labels {labels} and seed {record['seed']}, "
                    "expected one. Keep the results of two grids in two folders."
                )
            arm.scores[record["seed"]] = _means(row["by_prompt"])  # pyright: ignore[reportIndexIssue]
            if (spread := row.get("lexical_diversity", row.get("diversity"))) is not None:
                arm.diversity[record["seed"]] = spread  # pyright: ignore[reportIndexIssue]
    return {block: _without_idle_axes(list(arms.values())) for block, arms in found.items()}


def _empty(labels: Labels, record: Mapping[str, Any], row: Mapping[str, Any]) -> Arm:
    algorithm, left_out = record.get("algorithms", {}).get(row["task"], ""), record.get("left_out", ())
    place = row["task"], row["split"], float(row["temperature"]), row["phase"], row["space"]
    lexical = "lexical_diversity" in row
    spread = None if lexical else published_diversity(row["task"], row["phase"], row["space"], algorithm)
    return Arm(labels, {}, {}, lexical, published_score(*place, algorithm, left_out), spread)


def _means(by_prompt: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    kept = {row: [value for value in values if value is not None] for row, values in by_prompt.items()}
    return {row: float(np.mean(values)) for row, values in kept.items() if values}


def _repeated_axes(records: Sequence[Mapping[str, Any]]) -> set[str]:
    """The seed, and axes that only say which task or space a cell has, as its scores do."""
    dropped = {SEED}
    for names, key in ((_TASKS, "task"), (_SPACES, "space")):
        for name in names:
            if all({row[key] for row in r["scores"]} == {str(r["axes"].get(name))} for r in records):
                dropped.add(name)
    return dropped


def _axes_say_space(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an axis tells apart more than the spaces do, and of each of its values there is one space."""
    for name in sorted({name for record in records for name in record["axes"]} - {SEED, *_SPACES}):
        spaces: dict[str, set[str]] = {}
        for record in records:
            spaces.setdefault(str(record["axes"].get(name)), set()).update(row["space"] for row in record["scores"])
        different = set().union(*spaces.values())
        if len(spaces) > len(different) > 1 and all(len(found) == 1 for found in spaces.values()):
            return True
    return False


def _without_idle_axes(arms: list[Arm]) -> list[Arm]:
    """The arms; of those after SFT, which RL's axes do not touch, one where all that differ in an axis are the same."""
    tuned, others = ([a for a in arms if (a.labels[PHASE] == "sft") == is_sft] for is_sft in (True, False))
    for name in [name for name in (tuned[0].labels if tuned else ()) if name not in (SPACE, PHASE)]:
        groups: dict[tuple[tuple[str, str], ...], list[Arm]] = {}
        for arm in tuned:
            groups.setdefault(tuple((k, v) for k, v in arm.labels.items() if k != name), []).append(arm)
        if all(_are_same(group) for group in groups.values()):
            tuned = [_joined(dict(labels), group) for labels, group in groups.items()]
    return [*tuned, *others]


def _are_same(arms: Sequence[Arm]) -> bool:
    """No seed has two scores of a prompt."""
    known: dict[int, Mapping[str, float]] = {}
    return all(known.setdefault(seed, scores) == scores for arm in arms for seed, scores in arm.scores.items())


def _joined(labels: Labels, arms: Sequence[Arm]) -> Arm:
    scores = {seed: found for arm in arms for seed, found in arm.scores.items()}
    spread = {seed: found for arm in arms for seed, found in arm.diversity.items()}
    return dataclasses.replace(arms[0], labels=labels, scores=scores, diversity=spread)
