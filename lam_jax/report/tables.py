"""The end of a run in the terminal: the report's main tables for rich, each at most 80 columns wide.

A pipe or a log has 80 columns. Labels of rows have a width that they keep, and break into lines beyond it; where there
is less room numbers break. Left to itself rich squeezes the column of labels to nothing first.
"""

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from lam_jax.report.comparison import (
    Comparison,
    against_token,
    comparisons,
    spaces_of,
    speed_tables,
    standard_errors,
)
from lam_jax.report.names import Titles, number
from lam_jax.report.schema import Row


def labelled_table(title: str, heading: str, labels: list[str], widest: int) -> Table:
    """A table whose first column holds labels, and is as wide as they are, up to `widest`."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    width = min(max(map(len, [heading, *labels])), widest)
    table.add_column(heading, width=width, overflow="fold")
    return table


def number_columns(table: Table, *headings: str) -> None:
    """Adds columns of numbers."""
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")


def short_number(value: float) -> str:
    """With three decimals below 10 and fewer above, so that a reward of any size fits."""
    return number(value, 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0)


def _interval(row: Row | None) -> str:
    if row is None:
        return "–"
    return f"{short_number(row['mean'])}\n[dim]{short_number(row['low'])}-{short_number(row['high'])}[/dim]"


def _score_tables(results: Row) -> list[Table]:
    titles, spaces = Titles.of(results), spaces_of(results)
    tasks: dict[str, list[Comparison]] = {}
    for row in comparisons(results):
        tasks.setdefault(row.task, []).append(row)
    tables = []
    for task, rows in tasks.items():
        labels = [f"{titles.short_split(task, row.split)}, T {row.temperature:g}" for row in rows]
        title = f"{titles.task(task)}: mean score, below it the confidence interval over prompts"
        table = labelled_table(title, "Split", labels, 16)
        number_columns(table, *(f"{space.capitalize()} {phase.upper()}" for space in spaces for phase in ("sft", "rl")))
        compared = len(spaces) > 1
        if compared:
            table.add_column("Ahead", no_wrap=True)
        for label, row in zip(labels, rows, strict=True):
            cells = [_interval(row.score(space, phase)) for space in spaces for phase in ("sft", "rl")]
            verdict = [row.verdict if row.phase else "–"] if compared else []
            table.add_row(escape(label), *cells, *verdict)
        tables.append(table)
    return tables


def _gain_tables(results: Row) -> list[Table]:
    titles = Titles.of(results)
    labels = [f"{titles.task(g['task'])}, {g['space']}, {g.get('algorithm', '–')}" for g in results["gain"]]
    table = labelled_table("RL on fixed training prompts", "Task, space, algorithm", labels, 19)
    number_columns(table, "Prompts", "Before", "After", "Gain", "Paired SE", "Gain/SE")
    for label, gain in zip(labels, results["gain"], strict=True):
        table.add_row(
            escape(label),
            number(gain.get("prompts"), 0),
            *(short_number(gain[key]) for key in ("before", "after", "difference", "paired_se")),
            number(standard_errors(gain), 1),
        )
    return [table]


def _speed_tables(results: Row) -> list[Table]:
    spaces = spaces_of(results)
    tables = []
    for task in speed_tables(results):
        labels = [f"{label} ({unit})" if unit else label for label, unit, *_ in task.rows]
        table = labelled_table(f"{Titles.of(results).task(task.task)}: one RL step", "", labels, 32)
        number_columns(table, *(space.capitalize() for space in spaces))
        others = against_token(spaces)
        number_columns(table, *(f"{space.capitalize()} / token" for space in others))
        for name, (_, _, digits, values, ratios) in zip(labels, task.rows, strict=True):
            cells = [number(values[space], digits) for space in spaces]
            table.add_row(name, *cells, *(number(ratios[space], 2) for space in others))
        tables.append(table)
    return tables


def _phase_tables(results: Row) -> list[Table]:
    names = [Titles.of(results).phase(phase["name"]) for phase in results["phases"]]
    table = labelled_table("Time", "Phase", names, 44)
    number_columns(table, "Seconds", "of which compiling")
    for name, phase in zip(names, results["phases"], strict=True):
        table.add_row(escape(name), number(phase["seconds"], 1), number(phase.get("compile_seconds"), 1))
    table.add_section()
    total = sum(phase["seconds"] for phase in results["phases"])
    compiling = sum(phase.get("compile_seconds") or 0.0 for phase in results["phases"])
    table.add_row("Total", number(total, 1), number(compiling, 1))
    return [table]


def summary_tables(results: Row) -> list[Table]:
    """Scores, RL gains, speed, time, as at the end of a run; sections without rows are left out."""
    makers = {"scores": _score_tables, "gain": _gain_tables, "speed": _speed_tables, "phases": _phase_tables}
    return [table for key, make in makers.items() if results.get(key) for table in make(results)]
