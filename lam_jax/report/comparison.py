"""The numbers of a run as rows that compare its action spaces; the HTML report and the terminal show the same.

Nothing is claimed in advance. A space is "ahead" only where its confidence interval lies above all others, and a gain
counts only beyond twice its paired standard error; anything else is called undecided.
"""

import math
from dataclasses import dataclass

from lam_jax.report.names import SPACES
from lam_jax.report.schema import Row

SPEED_ROWS = (
    ("rollout_s", "Rollout", "s", 3),
    ("update_s", "Policy update", "s", 3),
    ("step_s", "Whole step", "s", 3),
    ("rollout_tokens_per_s", "Rollout", "tokens/s", 0),
    ("update_tokens_per_s", "Policy update", "tokens/s", 0),
    ("trainable_parameters", "Trainable parameters", "", 0),
)


def standard_errors(gain: Row) -> float:
    """How many paired standard errors a gain is above zero; infinite for a nonzero gain whose error is zero."""
    if gain["paired_se"] > 0:
        return float(gain["difference"] / gain["paired_se"])
    return math.copysign(math.inf, gain["difference"]) if gain["difference"] else 0.0


def gain_verdict(gain: Row) -> str:
    """'rose', 'fell' or 'undecided': beyond twice the paired standard error, or not."""
    errors = standard_errors(gain)
    return "rose" if errors > 2 else "fell" if errors < -2 else "undecided"


@dataclass(frozen=True)
class Comparison:
    """The spaces on one task, split and temperature; `scores[space][phase]` is a row of the results."""

    task: str
    split: str
    temperature: float
    scores: dict[str, dict[str, Row]]

    def score(self, space: str, phase: str) -> Row | None:
        """The score row of a space after a phase, or None if it was not measured."""
        return self.scores.get(space, {}).get(phase)

    @property
    def spaces(self) -> list[str]:
        """Those that were scored."""
        return [space for space in SPACES if space in self.scores]

    @property
    def phase(self) -> str | None:
        """The last phase that all spaces were scored after; None if there is no such phase, or one space only."""
        if len(self.spaces) < 2:
            return None
        return next((phase for phase in ("rl", "sft") if all(self.score(space, phase) for space in self.spaces)), None)

    @property
    def verdict(self) -> str:
        """The space that is ahead (its interval above the others'), 'undecided' or 'not compared'."""
        if self.phase is None:
            return "not compared"
        rows = {space: self.scores[space][self.phase] for space in self.spaces}
        for space, own in rows.items():
            if all(own["low"] > row["high"] for other, row in rows.items() if other != space):
                return space
        return "undecided"

    def difference(self, space: str) -> float | None:
        """Mean score of a space minus that of the token space after `phase`."""
        if self.phase is None or not {space, "token"} <= self.scores.keys():
            return None
        return float(self.scores[space][self.phase]["mean"] - self.scores["token"][self.phase]["mean"])


def comparisons(results: Row) -> list[Comparison]:
    """One row per task, split and temperature, in the order of the results; temperature 1 before near-greedy."""
    tasks = list(dict.fromkeys(row["task"] for row in results.get("scores") or []))
    grouped: dict[tuple[str, str, float], dict[str, dict[str, Row]]] = {}
    for row in results.get("scores") or []:
        place = grouped.setdefault((row["task"], row["split"], float(row["temperature"])), {})
        place.setdefault(row["space"], {})[row["phase"]] = row
    ordered = sorted(grouped, key=lambda key: (tasks.index(key[0]), key[1], -key[2]))
    return [Comparison(*key, grouped[key]) for key in ordered]


def spaces_of(results: Row) -> list[str]:
    """The action spaces that the run has numbers or answers of; those of the paper where it has none."""
    rows = [row for key in ("scores", "gain", "speed", "rl") for row in results.get(key) or []]
    rows += [answer for sample in results.get("samples") or [] for answer in sample["answers"]]
    return [space for space in SPACES if any(row["space"] == space for row in rows)] or ["latent", "token"]


def tasks_of(results: Row, *sections: str) -> list[str]:
    """Every task that one of the sections mentions, in order of appearance."""
    return list(dict.fromkeys(row["task"] for key in sections for row in results.get(key) or [] if row.get("task")))


def diversity_rows(results: Row) -> list[Row]:
    """Spaces side by side: one row per task, split, temperature and phase, with each space's score row or None."""
    return [
        {"task": row.task, "split": row.split, "temperature": row.temperature, "phase": phase}
        | {space: _with_diversity(row.score(space, phase)) for space in SPACES}
        for row in comparisons(results)
        for phase in ("sft", "rl")
        if any(row.score(space, phase) for space in SPACES)
    ]


def _with_diversity(row: Row | None) -> Row | None:
    """A row of scores whose lexical diversity, if that is what it has, stands where the page looks; see the title."""
    if row is None or row.get("lexical_diversity") is None:
        return row
    keys = ("diversity", "diversity_reciprocal_mean")
    return row | {key: row.get(f"lexical_{key}") for key in keys}


def diversity_title(results: Row) -> str:
    """ "Lexical diversity" where it is of counts of words, as without an embedder, else "Diversity"."""
    rows = results.get("scores") or []
    if any(row.get("lexical_diversity") is not None for row in rows):
        return "Lexical diversity"
    # Runs of earlier versions say it in their settings only.
    evaluation = (results.get("config") or {}).get("evaluation")
    is_named = isinstance(evaluation, dict) and evaluation.get("embedder") in ("hashing", "lexical")
    return "Lexical diversity" if is_named else "Diversity"


@dataclass(frozen=True)
class DimensionTable:
    """Per-dimension scores of one task on one split: columns are (space, temperature) after `phase`."""

    task: str
    split: str
    phase: str
    columns: list[tuple[str, float]]
    rows: list[tuple[str, list[Row | None]]]


def dimension_tables(results: Row) -> list[DimensionTable]:
    """One table per task and split, after RL where it was scored, otherwise after SFT."""
    tables = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in results.get("scores") or []:
        if row.get("dimensions"):
            groups.setdefault((row["task"], row["split"]), []).append(row)
    for (task, split), rows in groups.items():
        phase = "rl" if any(row["phase"] == "rl" for row in rows) else "sft"
        rows = [row for row in rows if row["phase"] == phase]
        columns = {(row["space"], float(row["temperature"])): row["dimensions"] for row in rows}
        ordered = sorted(columns, key=lambda column: (-column[1], SPACES.index(column[0])))
        names = list(dict.fromkeys(name for column in ordered for name in columns[column]))
        body = [(name, [columns[column].get(name) for column in ordered]) for name in names]
        tables.append(DimensionTable(task, split, phase, ordered, body))
    return tables


@dataclass(frozen=True)
class SpeedTable:
    """Seconds, rates and sizes of one task: rows of (label, unit, digits, by space, spaces with codes over token)."""

    task: str
    rows: list[tuple[str, str, int, dict[str, float | int | None], dict[str, float | None]]]


def speed_tables(results: Row) -> list[SpeedTable]:
    """One table per task that was timed."""
    tables = []
    for task in dict.fromkeys(row["task"] for row in results.get("speed") or []):
        by_space = {row["space"]: row for row in results["speed"] if row["task"] == task}
        rows = []
        for key, label, unit, digits in SPEED_ROWS:
            values = {space: by_space.get(space, {}).get(key) for space in SPACES}
            token = values["token"]
            ratios = {s: v / token if v is not None and token else None for s, v in values.items() if s != "token"}
            rows.append((label, unit, digits, values, ratios))
        tables.append(SpeedTable(task, rows))
    return tables


def against_token(spaces: list[str]) -> list[str]:
    """The spaces of a run that are told beside its token space; none where it has no such."""
    return [space for space in spaces if space != "token"] if "token" in spaces else []
