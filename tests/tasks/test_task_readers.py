import json
import random

import pytest

from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError, Where
from lam_jax.data.splits import cut, hold_out, shuffled
from lam_jax.recipes import paper
from lam_jax.tasks import task
from lam_jax.tasks.mmrole import MMRoleRows, mmrole_examples, process_raw, read_mmrole
from lam_jax.tasks.pcogalign import FILES, pcogalign_examples, pcogalign_splits, read_pcogalign
from tests.tasks.made_rows import PROFILE, help_row, write_mmrole

WHERE = Where("rows.json", 2)


@pytest.fixture
def raw(tmp_path, make_png):
    return write_mmrole(tmp_path / "raw", make_png())


def test_raw_dialogues_become_processed_rows(raw):
    drops = Drops()
    rows = process_raw(raw, raw, "in-distribution", drops)
    assert [row["id"] for row, _ in rows] == [f"a_{i}" for i in range(20)] + [f"b_{i}" for i in range(20)]
    assert rows[0][1] == Where(str(raw / "dialogues/in-distribution/comment/a.json"), 0)
    assert rows[0][0] == {
        "id": "a_0",
        "image_path": "a.png",
        "conversations": [
            {"role": "user", "content": "<image>\nWhat? 0"},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because 0."},
        ],
        "original_roles": ["human", "Ann Lee", "human", "Ann Lee"],
        "character_role": "Ann Lee",
        "character_profile": {"Ann Lee": PROFILE},
    }
    assert drops.counts == {
        "missing image": 1,
        "unreadable profile": 1,
        "no character speaks": 1,
        "empty conversation": 1,
    }
    assert str(drops).startswith("4 rows dropped (1 empty conversation, ")


def test_each_turn_of_a_processed_row_is_an_example(raw):
    row = process_raw(raw, raw, "in-distribution", Drops())[0][0]
    first, second = mmrole_examples(row, WHERE, raw)
    head = (
        "Name: Ann Lee\nIntroduction: A wizard.\nPersonality: Kind.\nExperience: Many years.\n"
        "Relationship: Friend of Bo.\nCatchphrase: By the stars!\n"
    )
    assert [m["role"] for m in first.messages] == ["system", "user", "assistant"]
    assert first.messages[0]["content"] == "You are Ann Lee. Stay in character."
    assert first.messages[1]["content"] == head + "Question: What? 0"
    assert second.messages[1]["content"] == head + "History:\n[human]: What? 0\n[Ann Lee]: A cat.\nQuestion: Why?"
    assert (first.reference, second.reference) == ("A cat.", "Because 0.")
    assert first.images == second.images == (raw / "a.png",)
    assert first.id != second.id


def test_facts_belong_to_turns_and_images_may_be_bytes(raw, make_png):
    row = process_raw(raw, raw, "in-distribution", Drops())[0][0] | {"image_path": make_png()}
    assert [e.facts for e in mmrole_examples(row | {"facts": [{"n": 0}, {"n": 1}]}, WHERE)] == [{"n": 0}, {"n": 1}]
    assert [e.facts for e in mmrole_examples(row | {"facts": {"n": 0}}, WHERE)] == [{"n": 0}] * 2
    assert mmrole_examples(row, WHERE)[0].images == (make_png(),)
    with pytest.raises(DataError, match="covers turn 1"):
        mmrole_examples(row | {"facts": [{"n": 0}]}, WHERE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"character_role": "Nobody"}, "key 'Nobody': found no such key"),
        ({"original_roles": ["human"]}, "found 1 for 4 conversation turns"),
        ({"image_path": None}, "found NoneType None; expected an image path"),
        (
            {"conversations": [{"role": "assistant", "content": "x"}], "original_roles": ["Ann Lee"]},
            "after a user turn",
        ),
        ({"conversations": [{"role": "user"}] * 4}, r"conversations\[0\], key 'content'"),
    ],
)
def test_bad_processed_rows_are_named(raw, changes, message):
    row = process_raw(raw, raw, "in-distribution", Drops())[0][0] | changes
    with pytest.raises(DataError, match=message) as error:
        mmrole_examples(row, WHERE, raw)
    assert str(error.value).startswith("rows.json, row 2")


def test_bad_folders_are_named(raw, tmp_path):
    with pytest.raises(DataError, match="found no JSON file"):
        process_raw(tmp_path / "empty", raw, "in-distribution", Drops())


def test_mmrole_splits_follow_the_method(raw):
    splits, drops = read_mmrole(raw, raw)
    assert drops.total == 4
    names = [f"a_{i}" for i in range(20)] + [f"b_{i}" for i in range(20)]
    random.Random(42).shuffle(names)
    of = lambda *parts: {e.id.split("_turn")[0] for part in parts for e in part}  # noqa: E731
    assert of(splits.sft, splits.sft_val) == set(names[:20])
    assert of(splits.rl, splits.rl_val) == set(names[20:36])
    assert of(splits.id_test) == set(names[36:])
    assert of(splits.ood_test) == {"o_0", "o_1", "o_2"}
    sizes = (splits.sft, splits.sft_val, splits.rl, splits.rl_val, splits.id_test, splits.ood_test)
    assert [len(part) for part in sizes] == [36, 4, 29, 3, 8, 6]
    assert read_mmrole(raw, raw)[0] == splits
    assert read_mmrole(raw, raw, seed=1)[0].id_test != splits.id_test


def test_pcogalign_row(raw):
    (example,) = pcogalign_examples(help_row(1), WHERE, raw)
    assert example.messages == (
        {
            "role": "system",
            "content": 'You are a helpful assistant for a user who is "Parent at Home; Clerk at Office".',
        },
        {"role": "user", "content": "What now? 1"},
        {"role": "assistant", "content": "Feed the cat."},
    )
    assert example.images == (raw / "a.png",)
    assert example.facts["ImageDesc"] == "A cat."
    assert example.facts["role_set"] == help_row(1)["individual_RoleSet"]
    (scene,) = pcogalign_examples(help_row(1, image={"file_path": b"png"}, facts={"task": "help"}), WHERE)
    assert scene.images == (b"png",)
    assert scene.facts == {"task": "help"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"individual_RoleSet": {}}, "individual_RoleSet"),
        ({"individual_RoleSet": {"Home": 3}}, "individual_RoleSet"),
        ({"query": None}, "key 'query': found NoneType"),
        ({"image": {}}, "image.file_path"),
        ({"image": {"file_path": "gone.png"}}, "no file .*gone.png"),
        ({"eval_info": {"ImageDesc": "x", "location": "y"}}, "EvalHelp"),
        ({"golden_response": " "}, "non-empty assistant message"),
    ],
)
def test_bad_pcogalign_rows_are_named(raw, changes, message):
    with pytest.raises(DataError, match=message) as error:
        pcogalign_examples(help_row(0, **changes), WHERE, raw)
    assert str(error.value).startswith("rows.json, row 2")


def test_pcogalign_splits_follow_the_method(raw):
    rows = [help_row(i, id=str(i)) for i in range(40)]
    for name, part in (("HCMAS-golden-train", rows), ("HCMAS-golden-test", rows[:3]), ("HCSHR-golden-test", rows[:2])):
        (raw / f"{name}.json").write_text(json.dumps(part))
    splits, drops = read_pcogalign(raw, raw)
    assert drops.total == 0
    names = [str(i) for i in range(40)]
    random.Random(42).shuffle(names)
    assert {e.id for e in splits.sft + splits.val} == set(names[:20])
    assert len(splits.val) == 2
    assert {e.id for e in splits.rl} == set(names[20:28])
    assert [e.id for e in splits.ls1] == ["0", "1", "2"]
    assert [e.id for e in splits.ls2] == ["0", "1"]
    placed = [(row, WHERE) for row in rows]
    assert pcogalign_splits(placed, placed[:3], placed[:2], raw) == splits


def test_rows_without_ids_are_named_by_file_and_row(raw):
    for name in FILES:
        (raw / f"{name}.json").write_text(json.dumps([help_row(i) for i in range(4)]))
    splits, _ = read_pcogalign(raw, raw)
    assert [e.id for e in splits.ls1] == [f"HCMAS-golden-test_{i}" for i in range(4)]
    assert [str(e.where) for e in splits.ls2][:1] == [f"{raw / 'HCSHR-golden-test.json'}, row 0"]


@pytest.mark.parametrize("task", ["mmrole", "pcogalign"])
def test_every_split_that_a_published_recipe_names_is_read(raw, task):
    for name in FILES:
        (raw / f"{name}.json").write_text(json.dumps([help_row(i) for i in range(40)]))
    judges = {"judge": "http://localhost/v1", "judge_model": "judge", "evaluation_judge_model": "examiner"}
    recipe = paper.recipe("m", "p", "t", str(raw), str(raw), task=task, **judges)
    (own,) = recipe.tasks
    names = [own.sft, own.rl, own.val, *(scored.split for scored in own.tests.values())]
    found = [{e.id for e in own.rows.read(raw, name)} for name in names]
    assert all(found)
    assert not set.intersection(*found[:2])
    with pytest.raises(DataError, match="no split 'validation'"):
        own.rows.read(raw, "validation")


def test_mmrole_rows_say_what_was_dropped(raw, caplog, monkeypatch):
    monkeypatch.setattr(task, "_TOLD", set())
    with caplog.at_level("WARNING", "lam_jax"):
        MMRoleRows(str(raw), str(raw)).read(raw, "sft")
    assert "4 rows dropped (1 empty conversation, 1 missing image" in caplog.text
    told = caplog.text
    with caplog.at_level("WARNING", "lam_jax"):
        MMRoleRows(str(raw), str(raw)).read(raw, "rl")
    assert caplog.text == told, "once, not for each split"
    with pytest.raises(DataError, match=r"no rows for 'sft'; 47 rows dropped \(.*45 missing image"):
        MMRoleRows(str(raw), str(raw / "elsewhere")).read(raw, "sft")


def rename_profile(raw):
    folder = raw / "profiles/in-distribution/detailed_profiles"
    (folder / "Bo.json").rename(folder / "Bob.json")


def other_profile(raw):
    path = raw / "profiles/out-of-distribution/detailed_profiles/Cy.json"
    path.write_text(json.dumps(PROFILE | {"catchphrase": "Well."}))


def rename_dialogues(raw):
    folder = raw / "dialogues/in-distribution/comment"
    (folder / "b.json").rename(folder / "c.json")


@pytest.mark.parametrize("change", [rename_profile, other_profile, rename_dialogues])
def test_whatever_changes_the_rows_changes_their_content(raw, change):
    source = MMRoleRows(str(raw), str(raw))
    before = source.content()
    assert source.content() == before
    change(raw)
    assert source.content() != before


def test_a_picture_that_appears_is_another_content(raw, make_png):
    source = MMRoleRows(str(raw), str(raw))
    before = source.content()
    (raw / "gone.png").write_bytes(make_png())
    assert source.content() != before


def test_cuts_use_whole_rows_and_cover_everything():
    rows = list(range(11))
    parts = [cut(rows, 0.0, 0.5), cut(rows, 0.5, 0.9), cut(rows, 0.9, 1.0)]
    assert parts == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    with pytest.raises(ValueError, match=r"0\.9 to 0\.5"):
        cut(rows, 0.9, 0.5)


def test_hold_out_is_disjoint_reproducible_and_never_takes_all():
    kept, held = hold_out(range(50), 0.1)
    assert len(held) == 5
    assert sorted(kept + held) == list(range(50))
    assert hold_out(range(50), 0.1) == (kept, held)
    assert [len(part) for part in hold_out(range(3), 0.01)] == [2, 1]
    assert hold_out([7], 0.1) == ([7], [])
    assert hold_out([], 0.1) == ([], [])
    assert hold_out([1, 2], 0.0) == ([1, 2], [])
    assert shuffled(range(50)) == shuffled(range(50)) != shuffled(range(50), seed=1)
