"""The picture game from end to end: stages 1 to 6 in all spaces, turn by turn too, and its agents evaluated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lam_jax
from lam_jax.agents import evaluated
from lam_jax.agents.run_folder import RunAgent
from lam_jax.agents.settings import AgentError
from lam_jax.aot.plan import plan_of
from lam_jax.errors import BadSettingError
from lam_jax.pipeline import opened_apart
from lam_jax.runs.metrics import read_metrics
from lam_jax.train.spaces import TOKEN
from tests.end_to_end.quick_game import quick_game
from tests.quick_xla import QUICK_ENVIRONMENT

ROOT = Path(__file__).parents[2]
SPACES = ("latent", "token", "hybrid")
TESTS = ["id", "ood_size", "ood_density", "ood_position"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """In a process of its own, which no signature is checked in: the runs trace much."""
    folder = tmp_path_factory.mktemp("game")
    environment = {**os.environ, **QUICK_ENVIRONMENT}
    command = [sys.executable, "-m", "tests.end_to_end.quick_game", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_every_space_is_scored_on_every_kind_of_layout(out):
    results = json.loads((out / "maze" / "results.json").read_text())
    found = {(row["space"], row["phase"], row["split"]) for row in results["scores"]}
    assert found == {(space, phase, test) for space in SPACES for phase in ("sft", "rl") for test in TESTS}
    assert all(set(row["dimensions"]) == {"solved", "progress", "shortest", "legal"} for row in results["scores"])
    assert "OOD: more walls" in (out / "maze" / "report.html").read_text()


def test_rl_logs_what_the_reward_is_made_of(out):
    records = [record for record in read_metrics(out / "maze" / "metrics.jsonl") if record["phase"].startswith("rl_")]
    assert {record["phase"] for record in records} == {f"rl_{space}_maze" for space in SPACES}
    steps = [record for record in records if "rl_step_s" in record]
    assert all({"reward/solved", "reward/legal"} <= set(record) for record in steps)


def test_its_agents_are_evaluated_from_the_run(out):
    protocol = lam_jax.EvaluationProtocol(samples=2, prompts=2, diversity_samples=0)
    found = lam_jax.evaluate_agent(out / "maze", task="maze", space="token", protocol=protocol)
    assert [entry["set"] for entry in found["scores"]] == TESTS
    assert all(set(entry["dimensions"]) >= {"solved", "legal"} for entry in found["scores"])


def test_games_are_played_trained_on_and_scored(out):
    after = json.loads((out / "scores.json").read_text())
    assert [[row["split"] for row in scores["scores"]] for scores in after] == [TESTS, TESTS]
    for row in after[0]["scores"] + after[1]["scores"]:
        assert set(row["dimensions"]) == {"solved", "progress", "shortest", "legal", "turns"}
        assert 1 <= row["dimensions"]["turns"]["mean"] <= 6
    steps = [record for record in read_metrics(out / "maze_steps" / "metrics.jsonl") if "rl_step_s" in record]
    assert len(steps) == 2
    assert all(1 <= record["turns_mean"] <= 6 for record in steps)
    assert all(record["reward/turns"] == pytest.approx(record["turns_mean"]) for record in steps)
    # A prompt with all its pictures: between that of the first turn and that of the last.
    assert all(1 <= record["prompt_pictures"] <= 6 for record in steps)


def test_what_knows_single_answers_alone_refuses_games(out):
    recipe = quick_game("maze_steps", ("token",), out / "model")
    agent = RunAgent(out / "maze_steps", recipe, {}, recipe.tasks[0], TOKEN, ("sft_token_maze_steps",))
    with pytest.raises(AgentError, match="maze_steps is played turn by turn"):
        evaluated.tests_of(agent, None, None)
    with (
        opened_apart(recipe) as resources,
        pytest.raises(BadSettingError, match="'maze_steps', which is played turn by turn"),
    ):
        plan_of(resources)
