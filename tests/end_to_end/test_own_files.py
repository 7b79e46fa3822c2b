"""`lam-jax train own` on files of one's own, without the built-in world: all stages in both spaces."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lam_jax import pipeline
from lam_jax.cli import main
from lam_jax.cli.train import parse
from lam_jax.pipeline import Resources
from lam_jax.pipeline.plan import phases_of
from lam_jax.runs.jsonl import read_lines
from lam_jax.runs.metrics import read_metrics
from tests.cli.test_cli import call
from tests.end_to_end.own_files import flags, value, write_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder, the command and what it left."""
    folder = tmp_path_factory.mktemp("own")
    path = [*sys.path]
    args = [
        "train",
        "own",
        *flags(write_files(folder)),
        "--quick",
        "--out",
        str(folder / "run"),
        "--mesh",
        "1",
        "1",
        "1",
        "--dump-rollouts",
        "--validate-every",
        "1",
    ]
    assert main(args) == 0
    yield folder, args, json.loads((folder / "run" / "results.json").read_text())
    sys.path[:] = path


def test_all_stages_run_and_are_scored(made):
    folder, _, results = made
    assert [(s["task"], s["space"], s["phase"], s["split"]) for s in results["scores"]] == [
        ("own", space, phase, "id") for space in ("latent", "token") for phase in ("sft", "rl")
    ]
    for row in results["scores"]:
        assert 0 <= row["mean"] <= 1
        assert list(row["dimensions"]) == ["all"]
    assert results["gain"][0]["prompts"] == 8
    shown = [answer for sample in results["samples"] for answer in sample["answers"]]
    assert shown
    assert [answer["score"] for answer in shown] == pytest.approx([value(answer["text"]) for answer in shown])
    assert "Own" in (folder / "run" / "report.html").read_text()


def test_the_phases_of_a_run_are_those_of_its_recipe(made):
    folder, args, results = made
    expected = phases_of(parse(args[1], args[2:])[0])
    assert [phase["name"] for phase in results["phases"]] == list(expected)
    assert {path.name for path in (folder / "run" / "phases").iterdir()} == set(expected)


def test_answers_can_be_read_while_rl_runs(made):
    """Both steps of each RL phase: two prompts with four answers each."""
    folder, _, _ = made
    run = folder / "run"
    records = list(read_lines(run / "samples.jsonl"))
    assert [(r["phase"], r["step"], r["steps"]) for r in records] == [
        (f"rl_{space}_own", step, 2) for space in ("latent", "token") for step in (1, 2) for _ in range(2)
    ]
    logged = {(r["phase"], r["step"]): r for r in read_metrics(run / "metrics.jsonl") if "reward_mean" in r}
    for place, metrics in logged.items():
        answers = [a for r in records if (r["phase"], r["step"]) == place for a in r["answers"]]
        assert len(answers) == 8
        assert [a["reward"] for a in answers] == pytest.approx([value(a["text"]) for a in answers])
        assert np.mean([a["reward"] for a in answers]) == pytest.approx(metrics["reward_mean"])
        assert np.mean([a["parts"]["all"] for a in answers]) == pytest.approx(metrics["reward/all"])
        dumped = [r for r in read_lines(run / "rollouts" / f"{place[0]}.jsonl") if r["step"] == place[1]]
        assert [r["text"] for r in dumped] == [a["text"] for a in answers]
    assert all((a["codes"] is None) == ("token" in r["phase"]) for r in records for a in r["answers"])
    for record in records:
        (name,) = record["pictures"]
        assert (run / name).read_bytes() == (folder / f"{record['id'].removeprefix('q')}.png").read_bytes()
    page = (run / "samples.html").read_text()
    assert page.index("rl_token_own, step 2") < page.index("rl_latent_own, step 1")


def test_rl_validates_on_the_way(made):
    records = [r for r in read_metrics(made[0] / "run" / "metrics.jsonl") if r["phase"].startswith("rl_")]
    found = [(r["phase"], r["step"]) for r in records if "eval_score" in r]
    assert found == [(f"rl_{space}_own", step) for space in ("latent", "token") for step in (0, 1, 2)]


def test_the_metrics_of_a_run_are_those_of_the_documents(made):
    written = {name for r in read_metrics(made[0] / "run" / "metrics.jsonl") for name in r}
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE))
    found = {"reward/NAME" if name.startswith("reward/") else name for name in written}
    # An evaluation's names are those of the step, with a prefix.
    of_others = {"code_entropy", "emission_entropy", "turns_mean", "prompt_tokens", "prompt_pictures"}  # hybrid, games
    assert {name if name in documented else name.removeprefix("eval_") for name in found} == documented - of_others


def test_answers_after_sft_stand_beside_those_after_rl_without_special_tokens(made):
    folder, _, results = made
    for sample in results["samples"]:
        kinds = [(answer["space"], answer["phase"]) for answer in sample["answers"]]
        assert kinds == [(space, phase) for space in ("latent", "token") for phase in ("sft", "rl")]
        for answer in sample["answers"]:
            assert (answer["actions"] is not None) == (answer["space"] == "latent")
            assert answer["actions"] is None or len(answer["tokens"]) == len(answer["actions"])
            assert "".join(answer["tokens"]) == answer["text"]
    assert "<|im_end|>" not in json.dumps(results["samples"])
    assert "im_end" not in (folder / "run" / "report.html").read_text()


def test_what_rl_had_cost_is_counted(made):
    folder, _, results = made
    logged = [r for r in read_metrics(folder / "run" / "metrics.jsonl") if "rl_step_s" in r]
    assert [cost["space"] for cost in results["rl"]] == ["latent", "token"]
    for cost in results["rl"]:
        steps = [record for record in logged if record["phase"] == f"rl_{cost['space']}_own"]
        assert cost["steps"] == [record["step"] for record in steps] == [1, 2]
        assert cost["samples"] == [2 * 4, 2 * 2 * 4]
        assert cost["seconds"] == pytest.approx([steps[0]["rl_step_s"], steps[0]["rl_step_s"] + steps[1]["rl_step_s"]])
        assert 0 < cost["flops"][0] < cost["flops"][1]
    page = (folder / "run" / "report.html").read_text()
    assert "Mean reward by FLOPs" in page
    assert "Latent actions against tokens</h1>" in page


def test_a_finished_run_is_read_and_neither_model_nor_rows_are_opened(made, monkeypatch):
    folder, args, _ = made
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()}
    monkeypatch.setattr(Resources, "open", None)
    assert main(args) == 0
    after = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()}
    # The lock is opened, and the metrics are checked for a line that was cut off.
    assert {path.name for path in after if before.get(path) != after[path]} <= {"metrics.jsonl", ".lock"}


def test_a_report_that_is_gone_is_written_again_and_one_of_other_results_too(made, monkeypatch, capsys):
    folder, args, _ = made
    page, file = folder / "run" / "report.html", folder / "run" / "results.json"
    monkeypatch.setattr(Resources, "open", None)
    before, original = page.read_text(), file.read_text()
    page.unlink()
    assert main(args) == 0, capsys.readouterr().err  # seen to fail once, with the cause cut out of the log
    assert page.read_text() == before
    changed = json.loads(original) | {"base": {"made_up_score": 0.12345}}
    file.write_text(json.dumps(changed))
    assert main(args) == 0, capsys.readouterr().err
    assert "0.12345" in page.read_text()
    file.write_text(original)
    assert main(args) == 0, capsys.readouterr().err
    assert page.read_text() == before


def test_lost_results_are_collected_again_with_the_environment_that_made_the_numbers(made, monkeypatch):
    folder, args, results = made
    file = folder / "run" / "results.json"
    file.unlink()
    monkeypatch.setattr(pipeline, "environment", lambda: {"device": "another"})
    assert main(args) == 0
    again = json.loads(file.read_text())
    assert again["environment"] == results["environment"] != {"device": "another"}
    assert again == results


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (["--codes", "16"], "recipe.latent.codes"),
        (["--image", "56", "56"], "recipe.image.size"),
        (["--samples", "2"], "recipe.rl.samples"),
        (["--without", "cycle"], "recipe.method.cycle"),
    ],
)
def test_another_recipe_is_refused_and_named(made, change, place, capsys):
    code, _, err = call([*made[1], *change], capsys)
    assert code == 3
    assert place in err


def test_other_rows_under_the_same_names_are_refused(made, capsys):
    file = made[0] / "text.json"
    before = file.read_text()
    file.write_text(before.replace("Say red.", "Name red."))
    try:
        code, _, err = call(made[1], capsys)
    finally:
        file.write_text(before)
    assert code == 3
    assert "content" in err


def test_a_changed_reward_is_refused_unless_it_is_allowed(made, capsys):
    folder, args, _ = made
    changed = folder / "made_score_2.py"
    changed.write_text((folder / "made_score.py").read_text() + "# corrected\n")
    other = [word.replace("made_score.py", "made_score_2.py") for word in args]
    config = folder / "run" / "config.json"
    before = config.read_text()
    code, _, err = call(other, capsys)
    assert code == 3
    assert "reward.file" in err
    # As if the file itself had been corrected: only the hash differs.
    hash_of = json.loads(before)["config"]["content"]["rewards"]["own"]
    config.write_text(before.replace(hash_of, "0" * 64))
    code, _, err = call(args, capsys)
    assert code == 3
    assert "sha256" in err
    assert call([*args, "--changed-reward"], capsys)[0] == 0
    after = json.loads(config.read_text())
    assert after["config"] == json.loads(before)["config"]
    assert len(after["changes"]) == 1
    assert "sha256" in after["changes"][0][0]
