"""A folder that `lam-jax convert` made is a model, wherever a Hugging Face folder is one."""

import logging
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from experiments.first_rl_step import FirstRLStep, Settings, main
from lam_jax.formats.agent_folder import load_checkpoint, save_checkpoint
from lam_jax.formats.convert import convert
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.model_folder import load_model, read_model_config, tokenizer_folder
from lam_jax.latent.agent import init_latent
from lam_jax.latent.config import LatentConfig
from lam_jax.models.tokenizer import read_tokenizer
from lam_jax.parallel import TRAIN, make_mesh
from lam_jax.pipeline.content import model_content
from lam_jax.recipe import Model

SHIPPED = Model("lam_jax:scenes/assets/base_model").path
LATENT = LatentConfig(codes=8, inverse_layers=1, policy_layers=1, merge_layers=1)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "ours"
    convert(SHIPPED, folder)
    return folder


def test_it_holds_the_same_model_and_tokenizer(converted):
    expected = load_backbone(SHIPPED, make_mesh(), TRAIN, np.float32)
    found = load_model(converted, make_mesh((2, 2, 2)), TRAIN, np.float32)
    assert read_model_config(converted) == found.config == expected.config
    chex.assert_trees_all_equal(found, expected)
    tokenizer = read_tokenizer(tokenizer_folder(converted))
    assert tokenizer.encode("A red lion.") == read_tokenizer(SHIPPED).encode("A red lion.")
    assert tokenizer.chat_template == read_tokenizer(SHIPPED).chat_template


def test_every_file_of_it_counts_as_the_model(converted):
    content = model_content(converted)
    assert {"lam_jax.json", "weights.safetensors", "files/tokenizer.json", "files/config.json"} <= set(content)
    file = converted / "files" / "tokenizer.json"
    before = file.read_bytes()
    file.write_bytes(before + b"\n")
    changed = [name for name, value in model_content(converted).items() if value != content[name]]
    assert changed == ["files/tokenizer.json"]
    file.write_bytes(before)


def test_latent_modules_beside_the_backbone_are_passed_over_aloud(converted, tmp_path, caplog):
    backbone, _ = load_checkpoint(converted, make_mesh(), TRAIN)
    save_checkpoint(tmp_path / "agent", backbone, init_latent(backbone, LATENT, jax.random.key(0), make_mesh()).latent)
    with caplog.at_level(logging.WARNING, "lam_jax"):
        found = load_model(tmp_path / "agent", make_mesh(), TRAIN)
    chex.assert_trees_all_equal(found, backbone)
    assert "agent holds latent modules too: they are passed over, and new ones are made" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"agent/files holds neither tokenizer\.json"):
        read_tokenizer(tokenizer_folder(tmp_path / "agent"))


def test_the_first_rl_step_runs_on_it(converted, tmp_path):
    sizes = Settings(str(converted), steps=1, prompts=2, samples=2, length=8, update_lengths=(), latent=LATENT)
    records = main(FirstRLStep(tmp_path / "run", settings=sizes))
    assert [(record["phase"], record["step"]) for record in records] == [("rl_latent_help", 1)]
    assert np.isfinite(records[0]["loss"])
