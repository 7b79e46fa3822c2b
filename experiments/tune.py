"""RL's learning rate of each agent of the reproduction, chosen on validation prompts with an equal budget.

    .venv/bin/python -m experiments.tune
    .venv/bin/lam-jax table experiments/results/tune

Its seed is none of the reproduction's, and no test prompt is answered. GRPO stands for the four algorithms.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments.arms import AGENTS, tuning
from lam_jax.cli import exit_code, report_error
from lam_jax.grid.grid import Grid
from lam_jax.grid.listing import listed
from lam_jax.grid.run import run_grid
from lam_jax.hosts.start import start_process

RATES = (3e-4, 1e-3, 3e-3)
GRID = Grid(
    "tune", {"demo": tuning}, {"task": ("role_play", "help"), "learning_rate": RATES, "agent": AGENTS}, {"seed": 100}
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs the grid, or goes on with it."""

    out: Path = Path("runs/tune")
    results: Path = Path("experiments/results/tune")
    only: tuple[str, ...] = ()
    """Cells that are run, also if they are done; no others are."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Prints the cells and about how many hours they will take, and runs nothing."""


def main(config: Config) -> None:
    start_process()
    if config.list:
        print("\n".join(listed(GRID, config.results)))
        return
    run_grid(
        GRID, config.out, config.results, only=config.only, command=["python", "-m", "experiments.tune", *sys.argv[1:]]
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except (Exception, KeyboardInterrupt) as error:
        report_error(error)
        sys.exit(exit_code(error))
