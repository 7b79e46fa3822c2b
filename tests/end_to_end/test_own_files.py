"""The pipeline on files of one's own, without the built-in world: rows, a task and a reward that a test makes up."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lam_jax import pipeline
from lam_jax.data.readers import chat_examples
from lam_jax.data.sources import JsonRows
from lam_jax.errors import OtherConfigurationError
from lam_jax.pipeline import Resources, open_run, run_recipe
from lam_jax.pipeline.phases import phases_of
from lam_jax.recipe import Corpus, Recipe
from lam_jax.rewards.reward import FunctionReward
from lam_jax.runs.metrics import read_metrics
from lam_jax.tasks.task import ScoredSplit, Task
from tests.end_to_end.quick_demo import quick_recipe

COLOURS = ("red", "green", "blue", "grey")


def value(text: str) -> float:
    """Share of an answer's words that are colours, and a bit of its length, so that hardly two answers are alike."""
    return float(np.mean([word in COLOURS for word in text.split()] or [0.0])) / 2 + len(text) % 50 / 100


def colours_and_length(examples, answers):
    return [[value(text) for text in group] for group in answers]


def write_files(folder: Path) -> None:
    """30 plain pictures, 30 paired rows, 30 text-only rows and 30 task rows."""
    paired, text, task = [], [], []
    for i in range(30):
        colour = COLOURS[i % 4]
        Image.new("RGB", (112, 84), colour).save(folder / f"{i}.png")
        answer = {"role": "assistant", "content": f"It is {colour}."}
        chat = [{"role": "user", "content": "What colour is it?"}, answer]
        paired.append({"id": f"p{i}", "images": [f"{i}.png"], "messages": chat})
        text.append({"id": f"t{i}", "messages": [{"role": "user", "content": f"Say {colour}."}, answer]})
        task.append({"id": f"q{i}", "image": f"{i}.png", "messages": chat})
    for name, rows in (("paired", paired), ("text", text), ("task", task)):
        (folder / f"{name}.json").write_text(json.dumps(rows))


def own_recipe(folder: Path) -> Recipe:
    """The quick demo's sizes and steps, so that its compiled programs serve here too, on the files of `folder`."""
    quick = quick_recipe(0)
    old = quick.tasks[0]

    def rows(name: str, **splits: tuple[float, float]) -> JsonRows:
        return JsonRows(str(folder / f"{name}.json"), splits, parse=chat_examples)

    task = Task(
        "colours",
        "Colours",
        rows("task", sft=(0.0, 0.4), rl=(0.4, 0.8), val=(0.8, 0.9), test=(0.9, 1.0)),
        FunctionReward(colours_and_length),
        old.chat_lengths,
        old.prompt_lengths,
        old.answer_length,
        tests={"id": ScoredSplit("test", "Held out")},
    )
    held_out = {"train": (0.0, 0.9), "test": (0.9, 1.0)}
    assert quick.text_only is not None
    return dataclasses.replace(
        quick,
        name="own",
        paired=Corpus(rows("paired", **held_out), quick.paired.lengths),
        text_only=Corpus(rows("text", **held_out), quick.text_only.lengths),
        tasks=(task,),
        spaces=("latent",),
        rl=dataclasses.replace(quick.rl, task_algorithms={}),
        evaluation=dataclasses.replace(quick.evaluation, backbone=None),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Recipe, dict]:
    folder = tmp_path_factory.mktemp("own")
    write_files(folder)
    recipe = own_recipe(folder)
    return folder, recipe, run_recipe(recipe, folder / "run")


def test_all_stages_run_and_are_scored(made):
    folder, _, results = made
    assert json.loads((folder / "run" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert [(s["task"], s["space"], s["phase"], s["split"]) for s in results["scores"]] == [
        ("colours", "latent", phase, "id") for phase in ("sft", "sft", "rl", "rl")
    ]
    for row in results["scores"]:
        assert 0 <= row["mean"] <= 1
        assert list(row["dimensions"]) == ["reward"]
    assert results["gain"][0]["prompts"] == 12
    shown = [answer for sample in results["samples"] for answer in sample["answers"]]
    assert shown
    assert [answer["score"] for answer in shown] == [value(answer["text"]) for answer in shown]
    assert "Colours" in (folder / "run" / "report.html").read_text()


def test_phases_are_those_that_the_recipe_announces(made):
    folder, recipe, results = made
    assert [phase["name"] for phase in results["phases"]] == list(phases_of(recipe))
    trained = {path.name for path in (folder / "run" / "tensorboard").iterdir()}
    assert trained == {name for name, trains in phases_of(recipe).items() if trains}


def test_answers_after_sft_stand_beside_those_after_rl_without_special_tokens(made):
    folder, _, results = made
    for sample in results["samples"]:
        assert [answer["phase"] for answer in sample["answers"]] == ["sft", "rl"]
        for answer in sample["answers"]:
            assert len(answer["tokens"]) == len(answer["actions"])
            assert "".join(answer["tokens"]) == answer["text"]
    assert "<|im_end|>" not in json.dumps(results["samples"])
    assert "im_end" not in (folder / "run" / "report.html").read_text()


def test_what_rl_had_cost_is_counted(made):
    folder, _, results = made
    (cost,) = results["rl"]
    steps = [r for r in read_metrics(folder / "run" / "metrics.jsonl") if "rl_step_s" in r]
    assert cost["steps"] == [record["step"] for record in steps] == [1, 2]
    assert cost["samples"] == [16 * 8, 2 * 16 * 8]
    assert cost["seconds"] == pytest.approx([steps[0]["rl_step_s"], steps[0]["rl_step_s"] + steps[1]["rl_step_s"]])
    assert 0 < cost["flops"][0] < cost["flops"][1]
    page = (folder / "run" / "report.html").read_text()
    assert "Mean reward by FLOPs" in page
    assert "Latent actions</h1>" in page


def test_a_finished_run_is_read_and_neither_model_nor_rows_are_opened(made, monkeypatch):
    folder, recipe, results = made
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()}
    monkeypatch.setattr(Resources, "open", None)
    assert run_recipe(recipe, folder / "run") == json.loads(json.dumps(results))
    after = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()}
    # The lock is opened, and the metrics are checked for a line that was cut off.
    assert {path.name for path in after if before.get(path) != after[path]} <= {"metrics.jsonl", ".lock"}


def test_a_report_that_is_gone_is_written_again_and_one_of_other_results_too(made, monkeypatch):
    folder, recipe, _ = made
    page, file = folder / "run" / "report.html", folder / "run" / "results.json"
    monkeypatch.setattr(Resources, "open", None)
    before, original = page.read_text(), file.read_text()
    page.unlink()
    run_recipe(recipe, folder / "run")
    assert page.read_text() == before
    changed = json.loads(original) | {"base": {"made_up_score": 0.12345}}
    file.write_text(json.dumps(changed))
    run_recipe(recipe, folder / "run")
    assert "0.12345" in page.read_text()
    file.write_text(original)
    run_recipe(recipe, folder / "run")
    assert page.read_text() == before


def test_lost_results_are_collected_again_with_the_environment_that_made_the_numbers(made, monkeypatch):
    folder, recipe, results = made
    file = folder / "run" / "results.json"
    file.unlink()
    monkeypatch.setattr(pipeline, "environment", lambda: {"device": "another"})
    again = run_recipe(recipe, folder / "run")
    assert again["environment"] == results["environment"] != {"device": "another"}
    assert json.loads(file.read_text()) == json.loads(json.dumps(results))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda r: dataclasses.replace(r, latent=dataclasses.replace(r.latent, codes=16)), "recipe.latent.codes"),
        (lambda r: dataclasses.replace(r, image=dataclasses.replace(r.image, size=(56, 56))), "recipe.image.size"),
        (lambda r: dataclasses.replace(r, rl=dataclasses.replace(r.rl, samples=4)), "recipe.rl.samples"),
    ],
)
def test_another_recipe_is_refused_and_named(made, change, place):
    folder, recipe, _ = made
    with pytest.raises(OtherConfigurationError, match=place), open_run(change(recipe), folder / "run"):
        pass


def test_other_rows_under_the_same_names_are_refused(made):
    folder, recipe, _ = made
    file = folder / "text.json"
    before = file.read_text()
    file.write_text(before.replace("Say red.", "Name red."))
    try:
        with pytest.raises(OtherConfigurationError, match="content"), open_run(recipe, folder / "run"):
            pass
    finally:
        file.write_text(before)
