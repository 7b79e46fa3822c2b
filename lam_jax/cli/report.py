"""`lam-jax report`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes report.html and plots again from the results of a run."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs/demo")
    """Output folder of the run."""

    def run(self) -> None:
        """Writes the report."""
        from lam_jax.report.report import write_report

        Console().print(f"Wrote {write_report(self.folder)}", soft_wrap=True, highlight=False)
