"""What a new run tries before it trains: all rows, collators, rewards; on files of one's own with the shipped model."""

import dataclasses
import json
import logging
import resource
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from lam_jax.cli import is_expected
from lam_jax.corpora.build import Sampling
from lam_jax.corpora.kinds import build_pretraining
from lam_jax.data.readers import chat_examples
from lam_jax.data.schemas import DataError
from lam_jax.data.sources import JsonRows, SplitRows
from lam_jax.errors import NoSpaceError
from lam_jax.parallel.mesh import make_mesh
from lam_jax.pipeline.resources import Resources
from lam_jax.recipe import Recipe
from lam_jax.recipes import demo, own
from lam_jax.rewards.functions import FunctionReward
from lam_jax.rewards.reward import RewardShapeError
from lam_jax.rewards.verdict import Verdict
from lam_jax.scenes.builder import GENERATORS, SceneSizes
from lam_jax.tasks.task import ScoredSplit

CHAT = [{"role": "user", "content": "What is there?"}, {"role": "assistant", "content": "A red lion."}]
ROWS = 30


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (56, 56), "red").save(tmp_path / "red.png")
    for name, image in (("task", True), ("paired", True), ("text", False)):
        write(tmp_path, name, [row(name, i, image) for i in range(ROWS)])
    return tmp_path


def row(name: str, index: int, image: bool) -> dict:
    return {"id": f"{name}{index}", "messages": CHAT} | ({"images": ["red.png"]} if image else {})


def write(folder, name: str, rows: list) -> None:
    (folder / f"{name}.json").write_text(json.dumps(rows))


def recipe(folder, **fields) -> Recipe:
    file = {name: str(folder / f"{name}.json") for name in ("task", "paired", "text")}
    return own.recipe(**file, image=(56, 56), **fields)


def opened(recipe: Recipe, folder) -> Resources:
    return Resources.open(recipe, folder / "data", make_mesh(devices=jax.devices()[:1]))


def with_reward(recipe: Recipe, reward) -> Recipe:
    return dataclasses.replace(recipe, tasks=(dataclasses.replace(recipe.tasks[0], reward=reward),))


def test_good_files_pass(files):
    resources = opened(recipe(files), files)
    resources.try_out()
    assert len(resources.examples("own", "sft")) == 15


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "paired",
            [row("paired", i, i != 4) for i in range(ROWS)],
            r"paired\.json, row 4, key 'images': found no picture",
        ),
        ("text", [row("text", i, i == 7) for i in range(ROWS)], r"text\.json, row 7, key 'images': found a picture"),
        ("task", [row("task", i, True) | {"image": "red.png"} for i in range(2)], r"both 'image' and 'images'"),
        (
            "task",
            [row("task", i, True) | {"images": ["red.png"] * 2} for i in range(3)],
            r"task\.json, row \d, key 'images': found 2 pictures; expected one",
        ),
        ("text", [], "an empty list"),
    ],
)
def test_rows_that_training_cannot_use_are_named(files, name, rows, message):
    write(files, name, rows)
    with pytest.raises(DataError, match=message):
        opened(recipe(files), files).try_out()


def test_a_split_that_the_source_lacks_is_named(files):
    made = recipe(files)
    made = dataclasses.replace(made, tasks=(dataclasses.replace(made.tasks[0], val="validation"),))
    with pytest.raises(DataError, match=r"task\.json: found no split 'validation'; expected one of"):
        opened(made, files).try_out()


def test_prompts_shorter_than_their_picture_are_named(files):
    with pytest.raises(DataError, match=r"key 'images': found \d+ vision tokens; expected fewer than the prompt's 4"):
        opened(recipe(files, prompt_length=4), files).try_out()


def test_rows_longer_than_their_buckets_are_told_by_source(files):
    """All chats are alike; one of the task's is long, and prompts have room for nearly nothing."""
    long = [{"role": "user", "content": "What is there? " * 30}, CHAT[1]]
    write(files, "task", [row("task", i, True) | ({"messages": long} if i == 3 else {}) for i in range(ROWS)])
    found = {one.name: one for one in opened(recipe(files, prompt_length=16, row_length=100), files).lengths()}
    assert list(found) == [
        *("paired rows", "text-only rows", "own, chats of stage 5"),
        *("own, prompts of stage 6", "own, test prompts (id)"),
    ]
    assert (found["paired rows"].longer, found["paired rows"].bucket) == (0, 100)
    prompts = found["own, prompts of stage 6"]
    assert prompts.longer == prompts.rows == prompts.looked_at > 5
    task = [one for name, one in found.items() if name.startswith("own,")]
    assert sum(one.longest > 130 for one in task) == 1, "the long row is in one split"
    assert all(one.median < 60 for one in task)


def flat(examples, answers):
    return [1.0 for _ in answers]


def test_a_reward_of_another_shape_is_found_before_training(files):
    with pytest.raises(RewardShapeError, match="Reward flat: found a flat list of 1, expected one number an answer"):
        opened(with_reward(recipe(files), FunctionReward(flat)), files).try_out()


@dataclasses.dataclass(frozen=True)
class Down:
    def __call__(self, examples, answers, samples):
        return [[Verdict(error="connection refused") for _ in group] for group in answers]


def test_rows_of_sft_have_a_reference_and_others_may_not(files):
    rows = [row("task", i, True) for i in range(ROWS)]
    made = recipe(files)
    ids = {split: {e.id for e in opened(made, files).examples("own", split)} for split in ("sft", "rl", "val", "test")}
    without = [r | ({"messages": CHAT[:1]} if r["id"] in ids["rl"] | ids["test"] else {}) for r in rows]
    write(files, "task", without)
    opened(with_reward(made, FunctionReward(ones)), files).try_out()
    write(files, "task", [r | {"messages": CHAT[:1]} for r in rows])
    with pytest.raises(DataError, match=r"task.json, row \d+, key 'messages': found no reference answer"):
        opened(with_reward(made, FunctionReward(ones)), files).try_out()


def test_rows_with_answers_may_be_a_file_of_their_own(files):
    write(files, "answered", [row("answered", i, True) for i in range(20)])
    write(files, "task", [row("task", i, True) | {"messages": CHAT[:1]} for i in range(ROWS)])
    made = with_reward(recipe(files, sft=str(files / "answered.json")), FunctionReward(ones))
    resources = opened(made, files)
    resources.try_out()
    counts = {split: len(resources.examples("own", split)) for split in ("sft", "val", "rl", "test")}
    assert counts == {"sft": 18, "val": 2, "rl": 25, "test": 5}
    assert {e.id.rstrip("0123456789") for e in resources.examples("own", "val")} == {"answered"}
    before = made.tasks[0].rows.content()
    write(files, "answered", [row("answered", i, True) for i in range(21)])
    assert made.tasks[0].rows.content() != before


def test_ids_that_recur_are_found_before_training(files, caplog):
    chat = [{"role": "user", "content": "And?"}, CHAT[1]]
    write(
        files,
        "task",
        [row("task", i if i < 29 else 3, True) | ({} if i < 29 else {"messages": chat}) for i in range(ROWS)],
    )
    with pytest.raises(
        DataError, match=r"task\.json, row \d+, key 'id': found 'task3', which .*task\.json, row \d+ has"
    ):
        opened(recipe(files), files).try_out()
    write(files, "paired", [row("paired", i % 29, True) for i in range(ROWS)])
    write(files, "task", [row("task", i, True) for i in range(ROWS)])
    with pytest.raises(DataError, match=r"paired\.json, row \d+, key 'id': found 'paired0'"):
        opened(recipe(files), files).try_out()
    write(files, "paired", [row("paired", i, True) for i in range(ROWS)])
    write(files, "answered", [row("task", i, True) for i in range(20)])
    made = with_reward(recipe(files, sft=str(files / "answered.json")), FunctionReward(ones))
    with caplog.at_level(logging.WARNING, "lam_jax"):
        opened(made, files).try_out()
    assert "20 ids are those of rows in two files" in caplog.text


def test_a_source_of_several_may_not_score_two_rows_of_one_id(files):
    write(files, "other", [row("task", i, True) for i in range(ROWS)])
    made = recipe(files)
    rows = SplitRows({**dict.fromkeys(("sft", "rl", "val", "test"), made.tasks[0].rows), "more": JsonRows(
        str(files / "other.json"), {"more": (0.0, 1.0)}, parse=chat_examples)})  # fmt: skip
    tests = {"id": ScoredSplit("test", "A"), "more": ScoredSplit("more", "B")}
    made = dataclasses.replace(made, tasks=(dataclasses.replace(made.tasks[0], rows=rows, tests=tests),))
    with pytest.raises(DataError, match=r"other\.json, row \d+, key 'id': found 'task\d+', which .*task\.json"):
        opened(made, files).try_out()


def test_text_only_rows_may_write_the_tag_and_paired_and_task_rows_may_not(files):
    tagged = [{"role": "user", "content": "Draw <image>."}, CHAT[1]]
    write(files, "text", [row("text", i, False) | {"messages": tagged} for i in range(ROWS)])
    resources = opened(recipe(files), files)
    resources.try_out()
    assert {e.messages[0]["content"] for e in resources.examples("text_only", "train")} == {"Draw <image>."}
    for name in ("task", "paired"):
        write(files, name, [row(name, i, i != 5) | {"messages": tagged} for i in range(ROWS)])
        with pytest.raises(DataError, match=rf"{name}\.json, row 5, key 'messages\[0\]': found 1 <image> tags for 0"):
            opened(recipe(files), files).try_out()
        write(files, name, [row(name, i, True) for i in range(ROWS)])


def ones(examples, answers):
    return [[1.0] * len(group) for group in answers]


def test_a_reward_that_fails_on_a_reference_is_warned_of(files, caplog):
    with caplog.at_level(logging.WARNING, "lam_jax"):
        opened(with_reward(recipe(files), Down()), files).try_out()
    assert "Task own: the reward failed on row task" in caplog.text
    assert "connection refused" in caplog.text


def test_an_extra_that_is_not_installed_is_found_before_training(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    made = recipe(files)
    made = dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, embedder="made/up"))
    with pytest.raises(ImportError, match=r"pip install 'lam_jax\[embeddings\]'"):
        opened(made, files).try_out()


def test_results_show_as_many_conversations_as_were_kept(files, tmp_path):
    from lam_jax.pipeline.results import _samples

    resources = opened(recipe(files), files)
    names = [example.id for example in resources.examples("own", "test")]
    # Of the second row there is no answer: it was skipped.
    kept = [names[0], names[2]]
    answers = {"test": [{"id": name, "space": "latent", "text": str(i)} for i, name in enumerate(kept)]}
    made = resources.recipe
    scored = {"test": dataclasses.replace(made.tasks[0].tests["id"])}
    made = dataclasses.replace(made, tasks=(dataclasses.replace(made.tasks[0], tests=scored),))
    resources = dataclasses.replace(resources, recipe=made)
    shown = _samples(tmp_path, resources, {("own", "latent", "rl"): {"answers": answers}})
    assert [[a["text"] for a in s["answers"]] for s in shown] == [["0"], ["1"]]
    assert [s["id"] for s in shown] == kept
    assert np.all([(tmp_path / s["image"]).is_file() for s in shown])


@pytest.mark.parametrize("kind", ["records", "files"])
def test_a_disk_that_fills_up_while_rows_are_built_is_one_message(tmp_path, kind):
    """array_record says it in an error of its own; other sources as they like."""
    sizes = SceneSizes(**{config: dict.fromkeys(splits, 3) for config, splits in GENERATORS.items()})
    made = demo.recipe(task=("help",), sizes=sizes)
    if kind == "files":
        made = dataclasses.replace(made, paired=dataclasses.replace(made.paired, rows=Heavy()))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(NoSpaceError, match=r"data: no space to build the data set in .*File too large") as caught:
            Resources.open(made, tmp_path / "data", make_mesh())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.exit_code, is_expected(caught.value)) == (5, True)
    assert not list(tmp_path.glob("data/*scenes*")), "nothing is left that could be taken for a data set"


@dataclasses.dataclass(frozen=True)
class Heavy:
    """A source that writes more than there is room for."""

    def prepare(self, folder):
        folder.mkdir()
        (folder / "rows").write_bytes(bytes(30_000))

    def read(self, folder, split):
        return []

    def content(self):
        return ""


def test_a_folder_that_datasets_saved_is_read_as_rows(files):
    datasets = pytest.importorskip("datasets")
    rows = [row("paired", i, False) | {"image": {"bytes": (files / "red.png").read_bytes()}} for i in range(ROWS)]
    datasets.Dataset.from_list(rows).save_to_disk(files / "saved")
    made = dataclasses.replace(recipe(files), paired=own.recipe("t", str(files / "saved")).paired)
    assert isinstance(made.paired.rows, JsonRows)
    assert len(opened(made, files).examples("paired", "train")) == ROWS - 1


def test_a_built_side_that_comes_again_is_trained_on(files):
    build_pretraining([files / "paired.json"], files / "few", Sampling())
    write(files, "texts", [row("text", i, False) for i in range(3 * ROWS)])
    build_pretraining([files / "few" / "paired", files / "texts.json"], files / "both", Sampling())
    both = str(files / "both")
    made = own.recipe(str(files / "task.json"), both, text=both, image=(56, 56))
    resources = opened(made, files)
    resources.try_out()
    rows = resources.examples("paired", "train")
    assert len(rows) > len({example.id for example in rows})
