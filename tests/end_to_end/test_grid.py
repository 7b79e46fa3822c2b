"""A grid of whole runs: a cell that took phases from the store has the numbers of the same run alone."""

import dataclasses

import pytest

from lam_jax.grid.grid import Grid
from lam_jax.grid.run import run_grid
from lam_jax.pipeline import run_recipe
from lam_jax.recipe import Recipe
from lam_jax.recipes import demo
from lam_jax.recipes.quick import quick
from tests.end_to_end.quick_demo import SIZES


def small(recipe: Recipe) -> Recipe:
    """A quick run whose evaluation is as short as it can be."""
    made = quick(recipe)
    evaluation = dataclasses.replace(made.evaluation, prompts=2, gain_prompts=2, batch=2, held_out=4, shown=1)
    stages = {n: dataclasses.replace(getattr(made, n), steps=1) for n in ("inverse", "projector", "joint", "cloning")}
    return dataclasses.replace(made, **stages, evaluation=evaluation)


def test_a_cell_with_shared_phases_has_the_numbers_of_the_run_alone(tmp_path):
    axes = {"algorithm": ("grpo", "bnpo")}
    grid = Grid("two", {"demo": demo.recipe}, axes, {"task": ("help",), "spaces": ("token",), "sizes": SIZES}, small)
    found = run_grid(grid, tmp_path / "grid", say=str)
    second = found["bnpo"]
    shared = {phase["name"] for phase in second["phases"] if phase["shared"]}
    assert shared == {
        *("stage1_inverse", "stage2_projector", "stage3_joint", "stage4_cloning", "codes", "reach", "reach_token_help"),
        *("sft_token_help", "scores_sft_token_help"),
    }
    alone = run_recipe(grid.cells()[1].recipe, tmp_path / "alone")
    assert [row["mean"] for row in alone["scores"]] == [row["mean"] for row in second["scores"]]
    assert alone["gain"] == second["gain"]
    for row in second["scores"]:
        values = [value for values in row["by_prompt"].values() for value in values]
        assert len(values) == 2 * 2
        assert sum(values) / len(values) == pytest.approx(row["mean"], rel=1e-5)
