"""The published experiments as recipes: what the paper's text says, on one task, with one algorithm, in one space.

experiments/published has a file for each. Prompts have the room of the recipes `mmrole` and `pcogalign`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from lam_jax.formats.model_folder import read_model_config
from lam_jax.models.families import PRESETS
from lam_jax.recipe import PACKAGE, Model, Recipe
from lam_jax.recipes import mmrole, pcogalign
from lam_jax.recipes.ablations import Part, with_codes, without
from lam_jax.recipes.real import bound

Task = Literal["mmrole", "pcogalign"]
Size = Literal["3b", "7b"]
Algorithm = Literal["grpo", "dr_grpo", "dapo", "bnpo"]
Space = Literal["latent", "token"]
RECIPES = {"mmrole": mmrole.recipe, "pcogalign": pcogalign.recipe}


def experiment(
    task: Task, size: Size, algorithm: Algorithm, space: Space, part: Part | None = None, codes: int | None = None
) -> Callable[..., Recipe]:
    """The function `recipe` of one published experiment; its parameters are those of `lam_jax.recipes.real.whole`.

    Args:
        task, algorithm, space: what the experiment compares.
        size: of the backbone; a folder with another one is refused.
        part: of the method that is left out.
        codes: number of latent actions; None: 128.
    """
    labels = [task, size, algorithm, space]

    def changed(recipe: Recipe) -> Recipe:
        require_size(recipe.model, size)
        if part is not None:
            recipe = without(recipe, part)
        if codes is not None:
            recipe = with_codes(recipe, codes)
        return dataclasses.replace(recipe, name=" ".join([*labels, recipe.name.partition(task)[2].strip()]).strip())

    text = f"The published run of {' '.join(labels)}."
    return bound(RECIPES[task], text, changed, algorithm=algorithm, space=(space,), emission=0.5, method="paper")


def require_size(model: Model, size: Size) -> None:
    """Refuses a backbone of another size; a folder that is not there fails where it is opened.

    Raises:
        ValueError: the folder's text decoder has another width or depth.
    """
    if model.folder.startswith(PACKAGE) or not (model.path / "config.json").is_file():
        return
    found, expected = read_model_config(model.path).text, PRESETS[f"qwen2_5_vl_{size}"].text
    if (found.width, found.layers) != (expected.width, expected.layers):
        raise ValueError(
            f"--model {model.folder}: found a decoder of width {found.width} with {found.layers} blocks, expected that "
            f"of Qwen2.5-VL-{size.upper()}, {expected.width} with {expected.layers}. Use the experiment of that size."
        )
