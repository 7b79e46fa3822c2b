"""What an exported agent's files say of the model that training began with: all, but for what training changes."""

import json
from pathlib import Path

import numpy as np
import pytest

from lam_jax.agents.export import generation_config, write_files
from lam_jax.agents.settings import AgentSettings
from lam_jax.formats.hf_config import read_config
from lam_jax.models.processor import ImageSettings, read_image_settings
from lam_jax.rollout.sampling import SamplingConfig
from tests.agents import made_agents as made
from tests.formats import made_checkpoint

IMAGE = ImageSettings(size=(56, 84))
GENERATION = {
    "our": 2,
    "num_beams": 4,
    "top_k": 1,
    "min_p": 0.1,
    "eos_token_id": [2, 0],
    "transformers_version": "4.41",
}


@pytest.fixture
def model(qwen_config, make_tokenizer, tmp_path) -> Path:
    """A folder with foreign keys in each file, and with what training leaves."""
    config = made.small(qwen_config)
    folder = tmp_path / "model"
    made_checkpoint.write(folder, config, {"unused": np.zeros(1, np.float32)})
    make_tokenizer(True).save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 128000, "our": "ü"}
    values["vision_config"]["tokens_per_second"] = 2
    processor = {"size": {"min_pixels": 784, "max_pixels": 7840}, "our": 3}
    written = {
        "config.json": values,
        "generation_config.json": GENERATION,
        "preprocessor_config.json": processor,
        "video_preprocessor_config.json": {"fps": 2},
        "added_tokens.json": {"<tool_call>": 9},
        "chat_template.json": {"chat_template": "x"},
        "trainer_state.json": {},
        "model.safetensors.index.json": {},
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "LICENSE",
        "modeling_our.py",
        "additional_chat_templates/t.jinja",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder


def exported(model: Path, space: str, target: Path) -> Path:
    sampling = SamplingConfig(temperature=0.5, top_k=3)
    settings = AgentSettings(space, IMAGE, (64,), 20, sampling)
    target.mkdir()
    write_files(model, target, settings, read_config(model), np.dtype(np.float32))
    return target


@pytest.mark.parametrize("space", ["latent", "token"])
def test_files_and_foreign_keys_come_along_and_leftovers_do_not(model, tmp_path, space):
    found = exported(model, space, tmp_path / "out")
    names = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    expected = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    expected -= {"optimizer.pt", "training_args.bin", "trainer_state.json", "model.safetensors"}
    expected -= {"model.safetensors.index.json"} | ({"config.json"} if space == "token" else set())
    assert names == expected
    for name in names - {"config.json", "generation_config.json", "preprocessor_config.json"}:
        assert (found / name).read_bytes() == (model / name).read_bytes()
    processor = json.loads((found / "preprocessor_config.json").read_text())
    assert processor["our"] == 3
    assert read_image_settings(found).max_pixels == 56 * 84
    if space == "latent":
        config = json.loads((found / "config.json").read_text())
        assert (config["max_position_embeddings"], config["our"]) == (128000, "ü")
        assert config["vision_config"]["tokens_per_second"] == 2
        assert json.loads((found / "generation_config.json").read_text()) == GENERATION


def test_of_generation_settings_what_chooses_tokens_is_the_agents_and_the_rest_stays(model):
    config = read_config(model)
    found = generation_config(SamplingConfig(temperature=0.5, top_k=3), 20, config, GENERATION)
    assert (found["our"], found["transformers_version"]) == (2, "4.41")
    assert (found["do_sample"], found["temperature"], found["top_k"], found["top_p"]) == (True, 0.5, 3, 1.0)
    assert not {"num_beams", "min_p"} & set(found)
    greedy = generation_config(SamplingConfig(temperature=0.0), 20, config, GENERATION)
    assert not {"num_beams", "min_p", "top_k", "temperature"} & set(greedy)
