"""The agents of the reproduction on the picture game: a task outside conversation, with a simulated reward.

    .venv/bin/python -m experiments.game
    .venv/bin/lam-jax table experiments/results/game

Answers are sequences of moves (docs/environments.md). Rates are those of role play: nothing is tuned here.
"""

import dataclasses

from experiments.arms import AGENTS, AgentName, arm
from experiments.grid_command import main
from lam_jax.grid.grid import Grid
from lam_jax.recipe import Recipe

TEMPERATURES = (1.0, 0.1)


def game(agent: AgentName, seed: int = 0) -> Recipe:
    """An agent's recipe on the game in one answer.

    Args:
        agent: which.
        seed: of everything random.
    """
    found = arm(agent, seed, "maze")
    space = found.spaces[0]
    answers = tuple(each for each in found.evaluation.answers if each.sampling[space].temperature in TEMPERATURES)
    evaluation = dataclasses.replace(found.evaluation, answers=answers)
    return dataclasses.replace(found, name="game", evaluation=evaluation)


GRID = Grid("game", {"demo": game}, {"seed": (0, 1, 2), "agent": AGENTS})

if __name__ == "__main__":
    main(GRID)
