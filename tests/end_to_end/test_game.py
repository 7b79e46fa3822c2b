"""The picture game from end to end: stages 1 to 6 in all spaces, and its agents evaluated."""

import json

import pytest

import lam_jax
from lam_jax.runs.metrics import read_metrics
from tests.end_to_end.quick_game import quick_game

pytestmark = pytest.mark.usefixtures("quick_compilation")
SPACES = ("latent", "token", "hybrid")
TESTS = ["id", "ood_size", "ood_density", "ood_position"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("game")
    lam_jax.run_recipe(quick_game("maze", SPACES), folder)
    return folder


def test_every_space_is_scored_on_every_kind_of_layout(run):
    results = json.loads((run / "results.json").read_text())
    found = {(row["space"], row["phase"], row["split"]) for row in results["scores"]}
    assert found == {(space, phase, test) for space in SPACES for phase in ("sft", "rl") for test in TESTS}
    assert all(set(row["dimensions"]) == {"solved", "progress", "shortest", "legal"} for row in results["scores"])
    assert "OOD: more walls" in (run / "report.html").read_text()


def test_rl_logs_what_the_reward_is_made_of(run):
    records = [record for record in read_metrics(run / "metrics.jsonl") if record["phase"].startswith("rl_")]
    assert {record["phase"] for record in records} == {f"rl_{space}_maze" for space in SPACES}
    steps = [record for record in records if "rl_step_s" in record]
    assert all({"reward/solved", "reward/legal"} <= set(record) for record in steps)


def test_its_agents_are_evaluated_from_the_run(run):
    protocol = lam_jax.EvaluationProtocol(samples=2, prompts=2, diversity_samples=0)
    found = lam_jax.evaluate_agent(run, task="maze", space="hybrid", protocol=protocol)
    assert [entry["set"] for entry in found["scores"]] == TESTS
    assert all(set(entry["dimensions"]) >= {"solved", "legal"} for entry in found["scores"])


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    lam_jax.run_recipe(quick_game("maze_steps", ("hybrid",)), folder)
    return folder


def test_games_are_played_trained_on_and_scored(steps):
    results = json.loads((steps / "results.json").read_text())
    found = {(row["space"], row["phase"], row["split"]) for row in results["scores"]}
    assert found == {("hybrid", phase, test) for phase in ("sft", "rl") for test in TESTS}
    assert all(set(row["dimensions"]) >= {"solved", "legal", "turns"} for row in results["scores"])
    records = [record for record in read_metrics(steps / "metrics.jsonl") if "rl_step_s" in record]
    assert len(records) == 2
    assert all(1 <= record["turns_mean"] <= 6 for record in records)
    assert all(record["reward/turns"] == pytest.approx(record["turns_mean"]) for record in records)
