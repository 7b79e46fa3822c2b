"""A run that was told to skip bad rows: what it reads, lists and counts; and one that was not."""

import dataclasses
import json

import jax
import pytest
from PIL import Image

from lam_jax.data.bad_rows import Skipped
from lam_jax.data.loader import in_order
from lam_jax.data.schemas import DataError, Where
from lam_jax.errors import OtherConfigurationError
from lam_jax.parallel.mesh import make_mesh
from lam_jax.pipeline import _run
from lam_jax.pipeline.resources import Resources
from lam_jax.pipeline.skipped import SkipLog, totals_of
from lam_jax.recipe import Recipe
from lam_jax.recipes import own
from lam_jax.runs.jsonl import read_lines

CHAT = [{"role": "user", "content": "What is there?"}, {"role": "assistant", "content": "A red lion."}]
ROWS = 20


@pytest.fixture
def files(tmp_path):
    """Files of rows: in each, row 3 is no row and row 5 has the id of row 4; pictures 6 and 7 are broken and gone."""
    for i in range(ROWS):
        Image.new("RGB", (56, 56), (i, 0, 0)).save(tmp_path / f"{i}.png")
    for name, image in (("task", True), ("paired", True), ("text", False)):
        rows = [
            {"id": f"{name}{4 if i == 5 else i}", "messages": 7 if i == 3 else CHAT}
            | ({"images": [f"{i}.png"]} if image else {})
            for i in range(ROWS)
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    (tmp_path / "6.png").write_bytes(b"junk")
    (tmp_path / "7.png").unlink()
    return tmp_path


def recipe(folder, **fields) -> Recipe:
    file = {name: str(folder / f"{name}.json") for name in ("task", "paired", "text")}
    return dataclasses.replace(own.recipe(**file, image=(56, 56)), **fields)


def opened(recipe: Recipe, folder) -> Resources:
    return Resources.open(recipe, folder / "data", make_mesh(devices=jax.devices()[:1]), run_folder=folder)


def listed(folder):
    return [(r["source"], r["row"], r["reason"]) for r in read_lines(folder / "skipped_rows.jsonl")]


def test_a_run_that_skips_opens_reads_and_lists_each_row_once(files):
    resources = opened(recipe(files, bad_rows="skip"), files)
    resources.try_out()
    task = [e for split in ("sft", "rl", "val", "test") for e in resources.examples("own", split)]
    # Splits are cut before rows are dropped.
    assert {3} == set(range(ROWS)) - {e.where.row for e in task} - {4, 5}
    resources.batches("own", "rl", 2)
    found = [e.where.row for made in in_order(task, resources.prompts["own"], 4) for e in made.examples]
    assert sorted(found) == sorted(e.where.row for e in task if e.where.row not in (6, 7))
    rows = {(source, row) for source, row, _ in listed(files)}
    assert {("own", 3), ("own", 6), ("own", 7), ("paired", 3), ("text_only", 3)} <= rows
    assert len(listed(files)) == len(set(listed(files)))
    (record,) = [r for r in read_lines(files / "skipped_rows.jsonl") if (r["source"], r["row"]) == ("own", 6)]
    assert (record["file"], record["picture"]) == (str(files / "task.json"), str(files / "6.png"))
    before = listed(files)
    again = opened(recipe(files, bad_rows="skip"), files)  # resumed: rows that are listed are not listed again
    again.try_out()
    list(in_order(task, again.prompts["own"], 4))
    assert listed(files) == before


def test_of_two_rows_with_one_id_in_two_splits_the_later_one_is_left_out(files):
    whole = {split: opened(recipe(files, bad_rows="skip"), files).examples("own", split) for split in ("sft", "rl")}
    rows = json.loads((files / "task.json").read_text())
    kept, twice = whole["sft"][0].where.row, whole["rl"][0].where.row
    rows[twice]["id"] = rows[kept]["id"]
    (files / "task.json").write_text(json.dumps(rows))
    resources = opened(recipe(files, bad_rows="skip"), files)
    assert twice not in {e.where.row for e in resources.examples("own", "rl")}  # whichever is asked for first
    assert kept in {e.where.row for e in resources.examples("own", "sft")}
    resources.try_out()
    assert ("own", twice, "duplicate id") in listed(files)


def test_where_every_picture_is_bad_the_message_counts_them(files):
    for path in files.glob("*.png"):
        path.write_bytes(b"junk")
    with pytest.raises(DataError, match=r"'paired': .*: 1 of 19 rows left out .*, 18 of which no batch"):
        opened(recipe(files, bad_rows="skip", max_bad_share=1.0), files).try_out()


def test_without_skip_the_first_bad_row_ends_it_and_the_ways_on_are_named(files):
    with pytest.raises(DataError, match=r"paired\.json, row \d, .*--bad-rows skip"):
        opened(recipe(files), files).try_out()


def test_too_many_bad_rows_end_a_run_that_skips(files):
    with pytest.raises(DataError, match=r"\d of \d+ rows that cannot be used.*at most 1%"):
        opened(recipe(files, bad_rows="skip", max_bad_share=0.01), files).try_out()
    with pytest.raises(ValueError, match="max_bad_share is 2"):
        recipe(files, max_bad_share=2.0)


def test_a_split_that_watches_training_does_without_its_only_row_and_a_scored_one_does_not(files):
    made = recipe(files, bad_rows="skip")
    (held_out,) = opened(made, files).examples("paired", "test")
    test = opened(made, files).examples("own", "test")
    for example in (held_out, *test):
        example.images[0].write_bytes(b"junk")
    resources = opened(made, files)
    (instead,) = resources.examples("paired", "test")
    assert instead.id in {e.id for e in resources.examples("paired", "train")}
    assert resources.held_out("paired", "test").mask.any(axis=1).sum() == 1
    with pytest.raises(DataError, match=r"split 'test' of 'own'.*no row that can be used"):
        resources.examples("own", "test")


def test_rows_that_were_replaced_are_counted_by_reason(files):
    resources = opened(recipe(files, bad_rows="skip"), files)
    batches, count = resources.batches("paired", "train", 4)
    steps = -(-count // 4)
    totals = {}
    for _ in range(steps):
        next(batches)
        for name, value in jax.device_get(resources.skipped.of_step()).items():
            totals[name] = totals.get(name, 0) + int(value)
    extra = 4 * steps - count  # rows of the second epoch
    assert 2 <= totals["skipped_rows"] <= 2 + 2 * extra
    assert totals["skipped_rows/broken_picture"] >= 1
    assert totals["skipped_rows/missing_picture"] >= 1
    assert totals["skipped_rows/bad_text"] == 0
    assert int(resources.skipped.of_step()["skipped_rows"]) == 0


def test_counts_of_rows_that_every_process_made():
    rows = [Skipped(Where("f", i), str(i), reason, "", None, 0) for i, reason in enumerate(["bad_text"] * 2)]
    found = totals_of(rows)
    assert (found["skipped_rows"], found["skipped_rows/bad_text"], found["skipped_rows/broken_picture"]) == (2, 2, 0)
    SkipLog().note("paired", rows)  # without a folder nothing is written


def test_a_run_that_a_bad_row_ended_may_go_on_with_skip_and_nothing_else_may_change(files):
    def claim(made):
        with _run(made, files / "run", 0, None, False, None) as run:
            run.phase("data", lambda: ({}, {}))

    claim(recipe(files))
    claim(recipe(files, bad_rows="skip", max_bad_share=0.1))
    content = json.loads((files / "run" / "config.json").read_text())
    assert content["config"]["recipe"]["bad_rows"] == "skip"
    assert "bad_rows" in str(content["changes"])
    with pytest.raises(OtherConfigurationError, match="seed"):
        claim(recipe(files, bad_rows="skip", max_bad_share=0.1, seed=5))
