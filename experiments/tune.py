"""RL's learning rate of each agent of the reproduction, chosen on validation prompts with an equal budget.

    .venv/bin/python -m experiments.tune
    .venv/bin/lam-jax table experiments/results/tune

Its seed is none of the reproduction's, and no test prompt is answered. GRPO stands for the four algorithms.
"""

from experiments.arms import AGENTS, tuning
from experiments.grid_command import main
from lam_jax.grid.grid import Grid

RATES = (3e-4, 1e-3, 3e-3)
GRID = Grid(
    "tune", {"demo": tuning}, {"task": ("role_play", "help"), "learning_rate": RATES, "agent": AGENTS}, {"seed": 100}
)

if __name__ == "__main__":
    main(GRID)
