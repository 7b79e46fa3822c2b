"""From raw files in MMRole's and PCogAlignBench's layout to agents, scores by a judge and a report, by one command."""

import json
from pathlib import Path

import pytest

from lam_jax.cli import main
from lam_jax.rewards.dimensions import HELP, ROLE_PLAY
from lam_jax.runs.metrics import read_metrics
from lam_jax.tasks.mmrole import read_mmrole
from lam_jax.tasks.pcogalign import read_pcogalign
from tests.end_to_end.own_files import flags
from tests.end_to_end.real_files import LoopbackJudge, loopback_judge, write_mmrole, write_pcogalign

# Prompts of the tests: of 30 dialogues a tenth is the ID test, with two turns each; 3 OOD ones.
TESTS = {"mmrole": {"id": 6, "ood": 8}, "pcogalign": {"id": 5, "ood": 5}}
DIMENSIONS = {"mmrole": list(ROLE_PLAY), "pcogalign": list(HELP)}
WRITE = {"mmrole": write_mmrole, "pcogalign": write_pcogalign}


def train(task: str, folder: Path, judge: LoopbackJudge, *more: str) -> dict:
    """Results of a run from raw files that are written to `folder`."""
    judges = ["--judge", judge.url, "--judge-model", "trainer", "--evaluation-judge-model", "examiner"]
    run = ["--preset", "tiny", "--out", str(folder / "run"), "--mesh", "1", "1", "1"]
    assert main(["train", task, *flags(WRITE[task](folder)), *judges, *run, *more]) == 0
    return json.loads((folder / "run" / "results.json").read_text())


def require_whole(task: str, spaces: tuple[str, ...], folder: Path, judge: LoopbackJudge, results: dict, samples: int):
    """Every space was trained, reinforced and scored by the right judge, and the report has it."""
    assert [(s["task"], s["space"], s["phase"], s["split"]) for s in results["scores"]] == [
        (task, space, phase, split) for space in spaces for phase in ("sft", "rl") for split in ("id", "ood")
    ]
    for score in results["scores"]:
        assert (score["prompts"], score["samples"]) == (TESTS[task][score["split"]], samples)
        assert list(score["dimensions"]) == DIMENSIONS[task]
        assert 0.1 <= score["mean"] <= 10
    steps = [r for r in read_metrics(folder / "run" / "metrics.jsonl") if "reward_mean" in r]
    assert {r["phase"] for r in steps} == {f"rl_{space}_{task}" for space in spaces}
    assert all(r["failed_rewards"] == 0 and 0.1 <= r["reward_mean"] <= 10 for r in steps)
    assert results["tasks"][task]["title"] in (folder / "run" / "report.html").read_text()
    # docs/real_data.md counts a run's calls like this; answers that are alike may have been asked about once.
    rl = results["config"]["rl"]
    gain, tests = results["gain"][0]["prompts"], sum(TESTS[task].values())
    training = rl["prompts"] * rl["samples"] * (rl["steps"] + 2) + 2 * gain * 2
    assert rl["prompts"] * rl["steps"] < len(judge.of("trainer")) <= 2 + len(spaces) * training
    assert tests < len(judge.of("examiner")) <= 2 + len(spaces) * 2 * samples * tests


@pytest.mark.parametrize("task", ["mmrole", "pcogalign"])
def test_quick_latent_run(task, tmp_path):
    with loopback_judge() as judge:
        results = train(task, tmp_path, judge, "--quick", "--space", "latent")
        require_whole(task, ("latent",), tmp_path, judge, results, samples=2)


@pytest.mark.real
@pytest.mark.parametrize("task", ["mmrole", "pcogalign"])
def test_tiny_run_in_both_spaces(task, tmp_path):
    with loopback_judge() as judge:
        results = train(task, tmp_path, judge)
        require_whole(task, ("latent", "token"), tmp_path, judge, results, samples=3)
    agent = tmp_path / "agent"
    assert main(["export", str(tmp_path / "run"), str(agent), "--space", "latent"]) == 0
    assert agent.is_dir()


def test_what_cannot_be_used_is_counted_by_reason(tmp_path):
    files = write_mmrole(tmp_path / "mmrole")
    splits, drops = read_mmrole(Path(files["raw"]), Path(files["images"]))
    assert len(splits.id_test) + len(splits.ood_test) == sum(TESTS["mmrole"].values())
    assert drops.counts == {
        "missing image": 2,
        "unreadable profile": 2,
        "no character speaks": 1,
        "empty conversation": 1,
        "no answer to a user": 1,
        "empty answer": 1,
        "turn without text": 2,
        "no conversation": 1,
        "image outside the folder": 1,
        "no id": 1,
        "duplicate id": 1,
        "no object": 1,
    }
    files = write_pcogalign(tmp_path / "pcogalign")
    _, drops = read_pcogalign(Path(files["raw"]), Path(files["images"]))
    assert drops.counts == {
        "no golden answer": 1,
        "no question": 1,
        "no role set": 1,
        "missing image": 1,
        "no eval_info": 1,
        "no object": 1,
    }
