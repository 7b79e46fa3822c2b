"""`lam-jax train own --model` with a tiny random Qwen3-VL: all stages, RL in every space, and the agents exported."""

import json

import numpy as np
import pytest
from PIL import Image

import lam_jax
from lam_jax.agents.export import export
from lam_jax.agents.prompts import prompt_of
from lam_jax.formats.hf_config import read_config
from lam_jax.rollout.sampling import SamplingConfig
from tests.agents.made_run import make_run
from tests.end_to_end import qwen3_model

pytestmark = pytest.mark.real
SPACES = ("latent", "token", "hybrid")
FLAGS = ("--image", "64", "96", "--row-length", "64", "--prompt-length", "48", "--answer-length", "8")
QUESTION = "What colour is it?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    model = qwen3_model.write_model(folder / "model")
    yield from make_run(folder, "qwen3_run_score", "--model", str(model), "--space", *SPACES, *FLAGS)


def test_every_stage_and_space_is_scored(run):
    results = json.loads((run / "results.json").read_text())
    found = {(row["space"], row["phase"]) for row in results["scores"]}
    assert found >= {(space, phase) for space in SPACES for phase in ("sft", "rl")}
    assert all(np.isfinite(row["mean"]) for row in results["scores"])


@pytest.mark.parametrize("space", SPACES)
def test_an_exported_agent_answers_about_a_picture(run, tmp_path, space):
    export(run, tmp_path / space, space=space)
    agent = lam_jax.load(tmp_path / space)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    greedy = SamplingConfig(temperature=0.0)
    one = agent.generate([prompt_of(QUESTION, picture, "q")], sampling=greedy, length=8)[0].answers[0]
    own = lam_jax.load(run, space=space)
    two = own.generate([prompt_of(QUESTION, picture, "q")], sampling=greedy, length=8)[0].answers[0]
    assert one.tokens == two.tokens
    if space == "token":
        assert read_config(tmp_path / space) == qwen3_model.CONFIG
    else:
        assert len(one.actions) == len(one.tokens)
