"""The pipeline on files of one's own, without the built-in world: rows, a task and a reward that a test makes up."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lam_jax.data.readers import chat_examples
from lam_jax.data.sources import JsonRows
from lam_jax.errors import OtherConfigurationError
from lam_jax.pipeline import open_run, run_recipe
from lam_jax.recipe import Corpus, Recipe
from lam_jax.rewards.reward import FunctionReward
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


def test_a_finished_run_is_restored(made):
    folder, recipe, results = made
    again = run_recipe(recipe, folder / "run")
    assert again["scores"] == results["scores"]
    assert [phase["seconds"] for phase in again["phases"][:-1]] == [
        phase["seconds"] for phase in results["phases"][:-1]
    ]


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
