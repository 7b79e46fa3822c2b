"""The end of `lam-jax demo` in the terminal: the report's main tables for rich."""

from rich.markup import escape
from rich.table import Table

from lam_jax.report.comparison import comparisons, speed_tables, standard_errors
from lam_jax.report.names import SPACES, Titles, number
from lam_jax.report.schema import Row


def _interval(row: Row | None) -> str:
    return "–" if row is None else f"{number(row['mean'])}\n[dim]{number(row['low'])}-{number(row['high'])}[/dim]"


def _score_table(results: Row) -> Table:
    table = Table(title="Score: model / reference, below it the confidence interval over prompts", title_justify="left")
    for heading in ("Task", "Split", "T"):
        table.add_column(heading)
    for heading in ("Latent SFT", "Latent RL", "Token SFT", "Token RL"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Ahead", no_wrap=True)
    titles = Titles.of(results)
    for row in comparisons(results):
        cells = [_interval(row.score(space, phase)) for space in SPACES for phase in ("sft", "rl")]
        task, split = escape(titles.task(row.task)), escape(titles.short_split(row.task, row.split))
        table.add_row(task, split, f"{row.temperature:g}", *cells, row.verdict)
    return table


def _gain_table(results: Row) -> Table:
    table = Table(title="RL on fixed training prompts", title_justify="left")
    for heading in ("Task", "Space", "Algorithm"):
        table.add_column(heading)
    for heading in ("Prompts", "Before", "After", "Gain", "Paired SE", "Gain / SE"):
        table.add_column(heading, justify="right")
    for gain in results["gain"]:
        table.add_row(
            escape(Titles.of(results).task(gain["task"])),
            gain["space"],
            escape(gain.get("algorithm", "–")),
            number(gain.get("prompts"), 0),
            *(number(gain[key]) for key in ("before", "after", "difference", "paired_se")),
            number(standard_errors(gain), 1),
        )
    return table


def _speed_table(results: Row) -> Table:
    table = Table(title="One RL step", title_justify="left")
    for heading in ("Task", ""):
        table.add_column(heading)
    for heading in ("Latent", "Token", "Latent / token"):
        table.add_column(heading, justify="right")
    for task in speed_tables(results):
        for label, unit, digits, latent, token, ratio in task.rows:
            name = f"{label} ({unit})" if unit else label
            table.add_row(
                escape(Titles.of(results).task(task.task)),
                name,
                number(latent, digits),
                number(token, digits),
                number(ratio, 2),
            )
    return table


def _phase_table(results: Row) -> Table:
    table = Table(title="Time", title_justify="left")
    table.add_column("Phase")
    table.add_column("Seconds", justify="right")
    table.add_column("of which compiling", justify="right")
    for phase in results["phases"]:
        name = escape(Titles.of(results).phase(phase["name"]))
        table.add_row(name, number(phase["seconds"], 1), number(phase.get("compile_seconds"), 1))
    table.add_section()
    total = sum(phase["seconds"] for phase in results["phases"])
    compiling = sum(phase.get("compile_seconds") or 0.0 for phase in results["phases"])
    table.add_row("Total", number(total, 1), number(compiling, 1))
    return table


def summary_tables(results: Row) -> list[Table]:
    """The end of `lam-jax demo` in the terminal: scores, RL gains, speed, time; sections without rows are left out."""
    makers = {"scores": _score_table, "gain": _gain_table, "speed": _speed_table, "phases": _phase_table}
    return [make(results) for key, make in makers.items() if results.get(key)]
