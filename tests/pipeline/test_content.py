"""What belongs to a run besides its recipe: the files of the model."""

import json

import numpy as np
import pytest

from lam_jax.pipeline import content
from lam_jax.pipeline.content import content_of, model_content
from lam_jax.recipe import Model
from tests.two_spaces import BOTH


@pytest.fixture
def folder(tmp_path):
    """A model folder, as far as a hash goes: a small config, and weights of 64 numbers."""
    (tmp_path / "config.json").write_text((Model("lam_jax:scenes/assets/base_model").path / "config.json").read_text())
    (tmp_path / "tokenizer.json").write_text("{}")
    write_weights(tmp_path, np.arange(64.0))
    return tmp_path


def write_weights(folder, values):
    (folder / "model.safetensors").write_bytes(values.astype(np.float32).tobytes())


def test_another_value_of_one_weight_is_another_model(folder):
    before = model_content(folder)
    assert list(before) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert model_content(folder) == before
    write_weights(folder, np.arange(64.0) + (np.arange(64) == 17))
    after = model_content(folder)
    assert [name for name in before if before[name] != after[name]] == ["model.safetensors"]


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_another_small_file_is_another_model(folder, file):
    before = model_content(folder)
    content = json.loads((folder / file).read_text()) | {"more": 1}
    (folder / file).write_text(json.dumps(content))
    assert model_content(folder) != before


def test_of_large_weights_the_ends_and_the_middle_count(folder, monkeypatch):
    """Blocks of 4 bytes of a file of 256: bytes 0, 84, 168 and 252 begin one."""
    for name, value in (("WHOLE", 100), ("BLOCKS", 4), ("BLOCK", 4)):
        monkeypatch.setattr(content, name, value)
    before = model_content(folder)
    for weight in (0, 21, 42, 63):
        write_weights(folder, np.arange(64.0) + (np.arange(64) == weight))
        assert model_content(folder) != before, weight
    write_weights(folder, np.arange(64.0) * 1.001)
    assert model_content(folder) != before
    write_weights(folder, np.arange(65.0))
    assert model_content(folder) != before


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        model_content(tmp_path)


def test_a_recipe_has_the_content_of_its_model_and_of_each_source():
    recipe = BOTH
    found = content_of(recipe)
    assert found["model"] == model_content(recipe.model.path)
    assert len(found["rows"]) == 4
