"""What the commands of the declared grids have in common: flags, and how they run."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from lam_jax.cli import UNREAD, exit_code, is_unread, report_error
from lam_jax.grid.grid import Grid
from lam_jax.grid.listing import listed
from lam_jax.grid.run import run_grid
from lam_jax.hosts.start import start_process
from lam_jax.recipes.quick import quick as quickly


def grid_command(grid: Grid) -> Callable[..., None]:
    """The function behind `python -m experiments.NAME`, NAME being the grid's."""

    def run(
        out: Path = Path("runs") / grid.name,
        results: Path | None = None,
        only: tuple[str, ...] = (),
        list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
        quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    ) -> None:
        """Runs the grid, or goes on with it.

        Args:
            out: Folder of the runs and of the phases that they share.
            results: Folder of the results. Default: experiments/results/NAME of the grid; with --quick OUT/results.
            only: Cells that are run, also if they are done; no others are.
            list: Prints the cells and about how many hours they will take, and runs nothing.
            quick: A smoke run: a few steps of everything, whose numbers mean nothing.
        """
        start_process()
        chosen = dataclasses.replace(grid, name=f"{grid.name} (quick)", changed=quickly) if quick else grid
        folder = results or (out / "results" if quick else Path("experiments/results") / grid.name)
        if list:
            print("\n".join(listed(chosen, folder)))
            return
        # Of the flags, --quick alone is in the numbers.
        command = ["python", "-m", f"experiments.{grid.name}", *(["--quick"] if quick else [])]
        run_grid(chosen, out, folder, only=only, command=command)

    return run


def main(grid: Grid) -> None:
    """Reads the flags, runs, and exits as `lam-jax` does."""
    try:
        tyro.cli(grid_command(grid))
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if is_unread(error):
            sys.exit(UNREAD)
        report_error(error)
        sys.exit(exit_code(error))
