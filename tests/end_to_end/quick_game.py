"""The picture game with a few steps a stage: what its end-to-end tests run."""

import dataclasses

from lam_jax.recipe import Recipe
from lam_jax.recipes.demo import TaskName, recipe
from lam_jax.recipes.quick import quick
from lam_jax.scenes.builder import GENERATORS, SceneSizes
from lam_jax.scenes.maze_rows import SPLITS, MazeSizes
from lam_jax.train.spaces import SpaceName


def quick_game(task: TaskName, spaces: tuple[SpaceName, ...]) -> Recipe:
    """Rollouts, validation and scores are two answers to two prompts each, so that they are one program."""
    sizes = SceneSizes(**{config: dict.fromkeys(splits, 16) for config, splits in GENERATORS.items()})
    whole = recipe(3, (task,), sizes=sizes, space=spaces, maze_sizes=MazeSizes(dict.fromkeys(SPLITS, 16)))
    short = quick(whole)
    evaluation = dataclasses.replace(
        short.evaluation, prompts=2, gain_prompts=2, gain_samples=2, batch=2, held_out=4, reach=None
    )
    return dataclasses.replace(short, evaluation=evaluation, rl=dataclasses.replace(short.rl, samples=2))
