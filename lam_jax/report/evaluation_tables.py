"""An evaluation in the terminal: tables of at most 80 columns, as of `lam_jax.report.tables`."""

from rich.markup import escape
from rich.table import Table

from lam_jax.report.evaluations import agents_of, describe_agent, diversity_of, drawn, failed_kinds
from lam_jax.report.names import human_name, number
from lam_jax.report.schema import Row
from lam_jax.report.tables import labelled_table, number_columns, short_number

ABREAST = 3  # agents beside each other in a table of dimensions


def evaluation_lines(evaluation: Row) -> list[str]:
    """What the tables are of: the protocol, and the agents behind their numbers."""
    lines = [drawn(evaluation)]
    return lines + [
        f"{index}  {describe_agent(evaluation, name)}" for index, name in enumerate(agents_of(evaluation), start=1)
    ]


def evaluation_tables(evaluation: Row) -> list[Table]:
    """Scores, dimensions, texts and comparisons of an evaluation; what was not measured is left out."""
    entries, places = evaluation["scores"], {name: i for i, name in enumerate(agents_of(evaluation), start=1)}
    out = []
    if any(entry.get("calls") for entry in entries):
        out.append(_scores(entries, places))
    for key in dict.fromkeys((entry.get("task"), entry["set"]) for entry in entries):
        own = [e for e in entries if (e.get("task"), e["set"]) == key and len(e.get("dimensions") or {}) > 1]
        out += [_dimensions(own[i : i + ABREAST], places) for i in range(0, len(own), ABREAST)]
    out.append(_texts(entries, places))
    if evaluation.get("comparisons"):
        out.append(_comparisons(evaluation["comparisons"], places))
    return out


def _label(entry: Row, places: dict[str, int]) -> str:
    return f"{places[entry['agent']]} {entry['set']}"


def _interval(row: Row | None, between: str = "-") -> str:
    if not row or row.get("mean") is None:
        return "–"
    if row.get("low") is None:
        return short_number(row["mean"])
    return f"{short_number(row['mean'])}\n[dim]{short_number(row['low'])}{between}{short_number(row['high'])}[/dim]"


def _scores(entries: list[Row], places: dict[str, int]) -> Table:
    labels = [_label(entry, places) for entry in entries]
    made = labelled_table("Scores, below each its bootstrap interval over prompts", "Agent, set", labels, 18)
    number_columns(made, "Prompts", "Score", "Std over samples", "Calls", "Failed")
    for label, entry in zip(labels, entries, strict=True):
        calls = entry.get("calls") or {}
        made.add_row(
            escape(label),
            number(entry["prompts"], 0),
            _interval(entry.get("score")),
            number((entry.get("score") or {}).get("std"), 4),
            number(calls.get("calls"), 0),
            escape(failed_kinds(entry)),
        )
    return made


def _dimensions(entries: list[Row], places: dict[str, int]) -> Table:
    names = list(dict.fromkeys(name for entry in entries for name in entry["dimensions"]))
    made = labelled_table(f"Dimensions, {entries[0]['title']}", "Dimension", [human_name(name) for name in names], 28)
    number_columns(made, *(f"{places[entry['agent']]}" for entry in entries))
    for name in names:
        made.add_row(escape(human_name(name)), *(_interval(entry["dimensions"].get(name)) for entry in entries))
    return made


def _texts(entries: list[Row], places: dict[str, int]) -> Table:
    labels = [_label(entry, places) for entry in entries]
    kinds = {diversity_of(entry)[0] for entry in entries}
    made = labelled_table("Answers", "Agent, set", labels, 18)
    number_columns(made, "Tokens", "95 %", "Ended", "Repeated 4-grams", "Distinct answers", " or ".join(sorted(kinds)))
    for label, entry in zip(labels, entries, strict=True):
        texts, (_, diversity) = entry["texts"], diversity_of(entry)
        made.add_row(
            escape(label),
            number(texts["length"]["mean"], 1),
            number(texts["length"]["p95"], 0),
            number(texts["ended"], 3),
            number(texts.get("repeated_4grams"), 3),
            number(texts["distinct_answers"], 2),
            number((diversity or {}).get("diversity"), 3),
        )
    return made


def _comparisons(rows: list[Row], places: dict[str, int]) -> Table:
    def second(row: Row) -> str:
        return f"{places.get(row['second'], '')}" if not row.get("second_evaluation") else row["second_evaluation"]

    labels = [f"{places[row['first']]} - {second(row)} {row['set']}" for row in rows]
    made = labelled_table(f"On the same prompts; p: {rows[0]['test']}", "Agents, set", labels, 18)
    number_columns(made, "Prompts", "Difference", "Won", "Tied", "Lost", "Win rate", "p")
    for label, row in zip(labels, rows, strict=True):
        made.add_row(
            escape(label),
            number(row["prompts"], 0) + (f"\n[dim]without {row['unpaired']}[/dim]" if row["unpaired"] else ""),
            _interval(row["difference"], " to "),
            *(number(row[key], 0) for key in ("wins", "ties", "losses")),
            number(row.get("win_rate"), 3),
            f"{row['p_value']:.2g}",
        )
    return made
