"""`lam-jax reviews`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Reviews:
    """Prints mean ratios from files of stored reviews (MMRole's layout), read from the review texts.

    Rows without a review are skipped and counted, as their authors do.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of reviews: JSON lists of {"id", "rm_review": {dimension: {"review": text}}}."""
    against: tuple[Path, ...] = ()
    """Published results, a CSV for each of FILES: compared to 1e-9, and code 1 where one differs."""
    csv: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the published files' columns and nothing else, a line for each of FILES."""

    def __post_init__(self):
        if not self.files:
            raise ValueError("reviews: expected one file of reviews or more.")
        if self.against and len(self.against) != len(self.files):
            raise ValueError(
                f"--against: found {len(self.against)} files for {len(self.files)} of reviews, expected one for each."
            )

    def run(self) -> int:
        """Prints; 1 where a published number differs or a review could not be read."""
        from lam_jax.rewards.review_tables import as_csv, compare, read_published, review_table

        tables = [review_table(file) for file in self.files]
        notes = Console(stderr=True) if self.csv else Console()
        if self.csv:
            sys.stdout.write(as_csv(tables))
            sys.stdout.flush()
        code = 0
        for number, table in enumerate(tables):
            if not self.csv:
                _print(notes, table)
            for identifier, why in table.unreadable.items():
                _say(notes, f"{table.file}: row {identifier!r} is left out: {why}")
                code = 1
            if self.against:
                lines = compare(table, read_published(self.against[number]))
                for line in lines:
                    _say(notes, f"{self.against[number]}: {line}")
                if not lines:
                    _say(notes, f"{self.against[number]}: equal to 1e-9")
                code = max(code, int(bool(lines)))
        return code


def _print(console: Console, table: object) -> None:
    from rich.table import Table

    from lam_jax.rewards.review_tables import ReviewTable

    assert isinstance(table, ReviewTable)
    skipped = f", {table.skipped} without a review skipped" if table.skipped else ""
    _say(console, f"{table.file}: {table.count} reviewed rows{skipped}")
    shown = Table("dimension", box=None)
    shown.add_column("answer / reference", justify="right")
    for name, mean in table.means.items():
        shown.add_row(name, f"{mean:.4f}")
    shown.add_row("mean", f"{sum(table.means.values()) / len(table.means):.4f}")
    console.print(shown)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
