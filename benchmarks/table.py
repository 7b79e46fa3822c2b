"""Records as a table: on the console, and in Markdown for the README (`python -m benchmarks.table FILE ...`)."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

HEADER = ("figure", "value", "95 % interval", "floor", "target")


def number(value: float | None, unit: str = "") -> str:
    """Three digits, with a unit where it is one that scales."""
    if value is None:
        return ""
    if unit in ("bytes", "FLOP"):
        for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
            if abs(value) >= size:
                return f"{value / size:.3g} {prefix}{'B' if unit == 'bytes' else 'FLOP'}"
    if unit == "count":
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    """A record as the cells of `HEADER`."""
    unit, interval, target = record["unit"], record["interval"], record["target"]
    name_unit = "" if unit in ("ratio", "share", "count", "bytes", "FLOP") else f" {unit}"
    return (
        record["name"],
        number(record["value"], unit) + name_unit + (" (counted)" if record["counted"] else ""),
        f"{number(interval[0], unit)} to {number(interval[1], unit)}" if interval else "",
        number(record["floor"], unit),
        f"{target['side']} {target['threshold']:g}: {target['verdict']}" if target else "",
    )


def show(content: Mapping[str, Any], console: Console) -> None:
    """Prints all records."""
    facts = content["environment"]
    table = Table(title=f"{facts['preset']} on {facts['cores']} cores of {facts['processor']}")
    for column in HEADER:
        table.add_column(column, no_wrap=True)
    for record in content["records"]:
        table.add_row(*cells(record))
    console.print(table)
    if facts["contended"]:
        console.print(f"{facts['contended']} repeats were kept although other processes used the CPU.", style="red")


def markdown(contents: list[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown table over the records of several files."""
    yield "| " + " | ".join(HEADER) + " |"
    yield "|---" * len(HEADER) + "|"
    for content in contents:
        for record in content["records"]:
            name, *rest = cells(record)
            yield "| " + " | ".join((f"`{name}`", *rest)) + " |"


def main(files: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> None:
    """Prints the Markdown table of result files."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    print("\n".join(markdown(contents)))


if __name__ == "__main__":
    tyro.cli(main)
