"""`lam-jax table`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

MARGIN = 0.02  # that of `lam_jax.grid.tables`, whose import would take long


@dataclasses.dataclass(frozen=True)
class TableCommand:
    """Compares the results of a grid: means with intervals, paired differences with verdicts, published figures."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of results, or the OUT of `lam-jax grid`."""
    csv: Path | None = None
    """File that gets a line for each mean and difference."""
    html: Path | None = None
    """File that gets the tables as one page."""
    margin: float = MARGIN
    """The least difference of scores that counts; one that is ruled out is "not supported"."""

    def __post_init__(self):
        if not self.margin > 0:
            raise ValueError(f"--margin: found {self.margin}, expected a difference above 0.")

    def run(self) -> None:
        """Prints the tables and writes the files."""
        from lam_jax.grid.arms import read_results
        from lam_jax.grid.render import csv_of, html_of, text_of
        from lam_jax.grid.tables import grid_tables

        tables = grid_tables(read_results(self.folder), self.margin)
        print(text_of(tables), end="")
        for file, made in ((self.csv, csv_of), (self.html, html_of)):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(made(tables), encoding="utf-8")
