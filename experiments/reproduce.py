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

from experiments.arms import AGENTS, arm
from experiments.grid_command import main
from lam_jax.grid.grid import Grid

SEEDS = (0, 1, 2)
ALGORITHMS = ("grpo", "dr_grpo", "dapo", "bnpo")
TASKS = ("role_play", "help")

GRID = Grid("reproduce", {"demo": arm}, {"task": TASKS, "seed": SEEDS, "algorithm": ALGORITHMS, "agent": AGENTS})

if __name__ == "__main__":
    main(GRID)
