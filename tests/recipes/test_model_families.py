"""Recipes with the folder of a model of either family: how pictures are cut and their colours normalised."""

import json
from pathlib import Path

import pytest

from lam_jax.formats.hf_config import to_hf
from lam_jax.models.decoding import ImageError
from lam_jax.models.families import PRESETS
from lam_jax.recipes import mmrole, own, pcogalign
from tests.recipes.shipped import REAL

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def folder_of(path: Path, preset: str, **image) -> str:
    """A folder with config.json, and image settings if any are given."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(to_hf(PRESETS[preset], "bfloat16")))
    if image:
        (path / "preprocessor_config.json").write_text(json.dumps(image))
    return str(path)


CASES = {"qwen2_5_vl_3b": (14, (280, 420), 150, CLIP), "qwen3_vl_4b": (16, (288, 416), 117, HALF)}


@pytest.mark.parametrize("preset", CASES)
@pytest.mark.parametrize("recipe", ["own", "mmrole", "pcogalign"])
def test_pictures_are_cut_as_the_family_wants_them(tmp_path: Path, preset, recipe):
    model = folder_of(tmp_path / "model", preset)
    patch, size, tokens, colours = CASES[preset]
    made = {
        "own": lambda: own.recipe(task="task.json", paired="paired.json", model=model),
        "mmrole": lambda: mmrole.recipe(**{**REAL, "model": model}),
        "pcogalign": lambda: pcogalign.recipe(**{**REAL, "model": model}),
    }[recipe]()
    image = made.image
    assert (image.patch_size, image.size, (image.mean, image.std)) == (patch, size, colours)
    _, height, width = image.grid(1, 1)
    assert height * width == 4 * tokens


def test_a_size_of_ones_own_is_kept(tmp_path: Path):
    model = folder_of(tmp_path / "model", "qwen3_vl_2b")
    image = own.recipe(task="task.json", paired="paired.json", model=model, image=(64, 96)).image
    assert (image.size, image.patch_size) == ((64, 96), 16)
    with pytest.raises(ValueError, match="expected positive multiples of 32"):
        own.recipe(task="task.json", paired="paired.json", model=model, image=(84, 112))


def test_colours_are_normalised_as_the_folder_says(tmp_path: Path):
    """A model that was tuned with other means and deviations would see other colours without a word."""
    tuned = folder_of(tmp_path / "tuned", "qwen3_vl_2b", image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    image = own.recipe(task="task.json", paired="paired.json", model=tuned).image
    assert (image.mean, image.std, image.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (288, 416))
    damaged = folder_of(tmp_path / "damaged", "qwen3_vl_2b", image_mean="half")
    with pytest.raises(ImageError, match=r"damaged.preprocessor_config\.json"):
        own.recipe(task="task.json", paired="paired.json", model=damaged)
