"""The tables of a grid as values: means with intervals, paired differences with verdicts, cost."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lam_jax.evaluation.crossed import Difference, crossed_interval, paired_difference
from lam_jax.grid.arms import PHASE, SPACE, Arm, Block, Labels, Results, arms_of
from lam_jax.grid.published import COST

MARGIN = 0.02  # of a score, the least difference that matters, unless another is asked for
_FIRST = {SPACE: "token", PHASE: "sft"}  # what the others are compared with; of an axis its first value


@dataclasses.dataclass(frozen=True)
class Mean:
    """Score of an arm in a block: mean over seeds and prompts, with its bootstrap interval over both."""

    labels: Labels
    mean: float
    low: float
    high: float
    seeds: int
    prompts: int
    paper: float | None
    diversity: float | None
    lexical: bool
    paper_diversity: float | None


@dataclasses.dataclass(frozen=True)
class Compared:
    """Two arms that differ in one label.

    Attributes:
        what: the label.
        first, second: its values.
        labels: the others, of the first.
        found: first - second.
        paper: the published difference; None: none.
    """

    what: str
    first: str
    second: str
    labels: Labels
    found: Difference
    paper: float | None


@dataclasses.dataclass(frozen=True)
class BlockTables:
    """The tables of a block, and its titles."""

    block: Block
    task: str
    split: str
    means: Sequence[Mean]
    compared: Sequence[Compared]


@dataclasses.dataclass(frozen=True)
class CostRatio:
    """Seconds latent / token of cells that differ in their space alone, mean over seeds.

    Attributes:
        task: whose RL.
        labels: of the cells.
        ratios: by the name of the median in a run's speed.
        seeds: over which.
    """

    task: str
    labels: Labels
    ratios: Mapping[str, float]
    seeds: int


@dataclasses.dataclass(frozen=True)
class GridTables:
    """All tables of a grid.

    Attributes:
        results: what they are made of.
        margin: the least difference that matters.
        blocks: by task, split and temperature.
        costs: of latent and token.
        commits, machines: by which code and on which devices the cells were run.
    """

    results: Results
    margin: float
    blocks: Sequence[BlockTables]
    costs: Sequence[CostRatio]
    commits: Sequence[str]
    machines: Sequence[str]


def grid_tables(results: Results, margin: float = MARGIN) -> GridTables:
    """Everything that is told of a grid.

    Raises:
        GridFilesError: two cells of one seed have the same labels.
    """
    titles: dict[str, Any] = {}
    for record in results.records:
        titles |= record.get("tasks", {})
    blocks = []
    for block, arms in arms_of(results.records).items():
        title = titles.get(block.task, {})
        names = title.get("title", block.task), title.get("splits", {}).get(block.split, block.split)
        blocks.append(BlockTables(block, *names, [mean_of(arm) for arm in arms], list(compared(arms, margin))))
    found = [record.get("environment", {}) for record in results.records]
    commits = list(dict.fromkeys(str(each.get("commit", "unknown")) for each in found))
    machines = list(dict.fromkeys(f"{each.get('device')}, jax {each.get('jax')}" for each in found))
    return GridTables(results, margin, blocks, cost_ratios(results.records), commits, machines)


def mean_of(arm: Arm) -> Mean:
    """An arm's row."""
    seeds, rows = sorted(arm.scores), arm.rows
    found = crossed_interval(arm.table(seeds, rows))
    spread = float(np.mean(list(arm.diversity.values()))) if arm.diversity else None
    values = found.mean, found.low, found.high, len(seeds), len(rows), arm.paper, spread
    return Mean(arm.labels, *values, arm.lexical, arm.paper_diversity)


def compared(arms: Sequence[Arm], margin: float) -> Iterator[Compared]:
    """Each value of a label against the first one, all other labels being equal; after RL against before."""
    for what in dict.fromkeys(name for arm in arms for name in arm.labels):
        order = list(dict.fromkeys(arm.labels[what] for arm in arms if what in arm.labels))
        reference = _FIRST[what] if _FIRST.get(what) in order else order[0]
        for first in arms:
            if (value := first.labels.get(what, reference)) == reference:
                continue
            for second in arms:
                if second.labels.get(what) == reference and _else_alike(first.labels, second.labels, what):
                    found = _difference(first, second, margin)
                    if found is not None:
                        labels = {name: text for name, text in first.labels.items() if name != what}
                        papers = [x for x in (first.paper, second.paper) if x is not None]
                        paper = papers[0] - papers[1] if len(papers) == 2 else None
                        yield Compared(what, value, reference, labels, found, paper)


def _else_alike(first: Labels, second: Labels, what: str) -> bool:
    """All labels but one are equal; an agent before RL has no value on the axes of RL."""
    names = second if what == PHASE else first
    same_names = what == PHASE or first.keys() == second.keys()
    return same_names and all(first.get(name) == second.get(name) for name in names if name != what)


def _difference(first: Arm, second: Arm, margin: float) -> Difference | None:
    seeds = sorted(first.scores.keys() & second.scores.keys())
    rows = sorted(set(first.rows) & set(second.rows))
    if not seeds or not rows:
        return None
    tables = first.table(seeds, rows), second.table(seeds, rows)
    if np.isnan(tables[0] - tables[1]).all():
        return None
    return paired_difference(*tables, margin)


def cost_ratios(records: Sequence[Mapping[str, Any]]) -> list[CostRatio]:
    """Of each pair of cells, or of one cell with both spaces; in one run of a cell times belong to one machine."""
    times: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, dict[str, Mapping[str, Any]]]] = {}
    for record in records:
        axes = {k: str(v) for k, v in record["axes"].items() if k not in ("seed", "space", "spaces", "task", "tasks")}
        machine = {"machine": str(record.get("environment", {}).get("device"))}
        for speed in record.get("speed", ()):
            key = speed["task"], tuple({**axes, **machine}.items())
            times.setdefault(key, {}).setdefault(record["seed"], {})[speed["space"]] = speed
    found = []
    for (task, labels), seeds in times.items():
        pairs = [spaces for spaces in seeds.values() if {"latent", "token"} <= spaces.keys()]
        ratios = {name: _ratio(pairs, name) for name in COST}
        kept = {name: ratio for name, ratio in ratios.items() if not math.isnan(ratio)}
        if kept:
            found.append(CostRatio(task, dict(labels), kept, len(pairs)))
    return found


def _ratio(pairs: Sequence[Mapping[str, Mapping[str, Any]]], name: str) -> float:
    found = [p["latent"][name] / p["token"][name] for p in pairs if p["latent"].get(name) and p["token"].get(name)]
    return float(np.mean(found)) if found else math.nan
