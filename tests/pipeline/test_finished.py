"""A finished run is known by its results and the records of its phases, and nothing else is opened."""

import json
import shutil

import pytest

from lam_jax.errors import BadSettingError
from lam_jax.pipeline.finished import finished_results, records_hash
from lam_jax.pipeline.plan import phases_of, require_trained_phase
from lam_jax.recipes import demo
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run
from lam_jax.train.method import Method
from lam_jax.train.spaces import PAPER_SPACES
from lam_jax.values import encode
from tests.two_spaces import HELP

RECIPE = HELP


def go_through(folder, phases=None):
    """Runs phases that do nothing, and writes results as they are collected."""
    with Run(folder, {"seed": 0}, Progress(enabled=False)) as run:
        for name in phases or phases_of(RECIPE):
            run.phase(name, lambda: (None, {}))
        results = {"config": encode(RECIPE, "recipe"), "base": {"loss": 0.5}}
        results["records"] = records_hash(run.phases, run.results)
        (folder / "results.json").write_text(json.dumps(results))


def found(folder, recipe=RECIPE):
    with Run(folder, {"seed": 0}, Progress(enabled=False)) as run:
        return finished_results(run, recipe)


@pytest.fixture
def folder(tmp_path):
    go_through(tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_has_its_results(folder):
    assert found(folder)["base"] == {"loss": 0.5}


@pytest.mark.parametrize("name", ["data", "rl_latent_help", "scores_rl_token_help"])
def test_a_missing_or_damaged_phase_is_to_be_run(folder, name):
    record = folder / "phases" / name / "record" / "metadata"
    before = record.read_text()
    record.write_text(before.replace("seconds", "hours"))
    assert found(folder) is None
    record.write_text(before)
    assert found(folder) is not None
    shutil.rmtree(folder / "phases" / name)
    assert found(folder) is None


def test_results_of_phases_that_were_run_again_since_are_to_be_collected(folder):
    shutil.rmtree(folder / "phases" / "codes")
    with Run(folder, {"seed": 0}, Progress(enabled=False)) as run:
        run.phase("codes", lambda: (None, {"again": 1}))
    assert found(folder) is None


@pytest.mark.parametrize("content", [None, "{", '{"phases": 3}', "{}"])
def test_results_that_are_gone_or_broken_are_to_be_collected(folder, content):
    file = folder / "results.json"
    file.unlink() if content is None else file.write_text(content)
    assert found(folder) is None


def test_results_of_another_recipe_are_not_taken(folder):
    assert found(folder, demo.recipe(seed=1, task=("help",))) is None
    results = json.loads((folder / "results.json").read_text())
    results["config"]["rl"]["samples"] = 99
    (folder / "results.json").write_text(json.dumps(results))
    assert found(folder) is None


def test_phases_by_name():
    assert list(phases_of(RECIPE)) == [
        *("data", "base_model", "stage1_inverse", "stage2_projector", "stage3_joint", "stage4_cloning", "codes"),
        *("reach", "sft_latent_help", "control_help", "scores_sft_latent_help", "reach_latent_help"),
        *("rl_latent_help", "scores_rl_latent_help", "reach_rl_latent_help"),
        *("sft_token_help", "scores_sft_token_help", "reach_token_help", "rl_token_help", "scores_rl_token_help"),
        "reach_rl_token_help",
    ]
    guided = demo.recipe(task=("help",), method=Method(sft="guided"), space=PAPER_SPACES)
    assert "sft_clone_latent_help" in phases_of(guided)


def test_only_phases_that_train_can_be_traced():
    require_trained_phase(RECIPE, None)
    require_trained_phase(RECIPE, "rl_token_help")
    for name in ("nope", "data", "rl_token_role_play"):
        with pytest.raises(
            BadSettingError, match=f"profile: found '{name}', expected a phase that trains: stage1_inverse, "
        ):
            require_trained_phase(RECIPE, name)
