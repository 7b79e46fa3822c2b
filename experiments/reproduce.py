"""The core comparison of the paper at `tiny` scale, as a grid: tasks x seeds x agents x algorithms.

    .venv/bin/python -m experiments.reproduce --list
    .venv/bin/python -m experiments.reproduce                  # `make reproduce`
    .venv/bin/lam-jax table experiments/results/reproduce
    .venv/bin/python -m experiments.reproduction_page          # docs/reproduction.md

The built-in world stands for MMRole (role play) and PCogAlignBench (personalised help). A cell is a whole run of an
agent of `experiments.arms`; stages 1 to 4 are trained once a seed, stage 5 once a seed, task and recipe. Results land a
small file a cell, so that another machine with the results goes on where this one stopped. Role play comes first, and
in it a seed after the other.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments.arms import AGENTS, arm
from lam_jax.cli import exit_code, report_error
from lam_jax.grid.grid import Grid
from lam_jax.grid.listing import listed
from lam_jax.grid.run import run_grid
from lam_jax.hosts.start import start_process
from lam_jax.recipes.quick import quick

SEEDS = (0, 1, 2)
ALGORITHMS = ("grpo", "dr_grpo", "dapo", "bnpo")
TASKS = ("role_play", "help")
RESULTS = Path("experiments/results/reproduce")

GRID = Grid("reproduce", {"demo": arm}, {"task": TASKS, "seed": SEEDS, "algorithm": ALGORITHMS, "agent": AGENTS})


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs the grid, or goes on with it."""

    out: Path = Path("runs/reproduce")
    """Folder of the runs and of the phases that they share."""
    results: Path | None = None
    """Folder of the results. Default: experiments/results/reproduce; with --quick OUT/results."""
    only: tuple[str, ...] = ()
    """Cells that are run, also if they are done; no others are."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Prints the cells and about how many hours they will take, and runs nothing."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A smoke run: a few steps of everything, whose numbers mean nothing."""


def main(config: Config) -> None:
    start_process()
    grid = dataclasses.replace(GRID, name="reproduce (quick)", changed=quick) if config.quick else GRID
    results = config.results or (config.out / "results" if config.quick else RESULTS)
    if config.list:
        print("\n".join(listed(grid, results)))
        return
    command = ["python", "-m", "experiments.reproduce", *sys.argv[1:]]
    run_grid(grid, config.out, results, only=config.only, command=command)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except (Exception, KeyboardInterrupt) as error:
        report_error(error)
        sys.exit(exit_code(error))
