"""Odd rows are left out and counted, by reason and place; MMRole's three kinds of dialogue."""

import json
import random

import pytest

from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError, Where
from lam_jax.tasks.mmrole import MMRoleRows, mmrole_examples, process_raw, read_mmrole
from lam_jax.tasks.pcogalign import FILES, PCogAlignRows, read_pcogalign
from tests.tasks.made_rows import dialogue, help_row, write_mmrole

WHERE = Where("rows.json", 2)


@pytest.fixture
def raw(tmp_path, make_png):
    return write_mmrole(tmp_path / "raw", make_png())


def odd(**changes):
    return dialogue("c", 0) | changes


def turns(*said):
    return [{"from": who, "value": text} for who, text in said]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (7, "no object"),
        (None, "no object"),
        (odd(id=None), "no id"),
        (odd(id=True), "no id"),
        (odd(conversations=None), "no conversation"),
        (odd(conversations="text"), "no conversation"),
        (odd(conversations=[]), "empty conversation"),
        (odd(conversations=["text"]), "turn that is no object"),
        (odd(conversations=[{"value": "x"}]), "turn without speaker"),
        (odd(conversations=[{"role": None, "from": "human", "value": "x"}]), "turn without speaker"),
        (odd(conversations=[{"from": "human"}]), "turn without text"),
        (odd(conversations=turns(("human", "Q"), ("Ann Lee", 5))), "turn without text"),
        (odd(conversations=turns(("human", "Q"))), "no character speaks"),
        (odd(conversations=turns(("Ann Lee", "A"), ("human", "Q"))), "no answer to a user"),
        (odd(conversations=turns(("human", "Q"), ("Ann Lee", "<image> "))), "empty answer"),
        (odd(conversations=turns(("human", " "), ("Ann Lee", "A"))), "empty question"),
        (odd(image=None), "missing image"),
        ({k: v for k, v in odd().items() if k != "image"}, "missing image"),
        (odd(image=["a.png"]), "missing image"),
        (odd(image="/etc/hostname"), "image outside the folder"),
        (odd(image="../raw/a.png"), "image outside the folder"),
        (odd(conversations=turns(("human", "Q"), ("Bad", "A"))), "unreadable profile"),
        (odd(id="a_3"), "duplicate id"),
    ],
)
def test_an_odd_dialogue_is_counted_with_its_place_and_changes_no_other(raw, row, reason):
    plain = process_raw(raw, raw, "in-distribution", Drops())
    path = raw / "dialogues/in-distribution/comment/c.json"
    path.write_text(json.dumps([row, dialogue("d", 1)]))
    drops = Drops()
    rows = process_raw(raw, raw, "in-distribution", drops)
    assert [r["id"] for r, _ in rows] == [*(r["id"] for r, _ in plain), "d_1"]
    assert drops.total == 5
    assert drops.counts[reason] == (2 if reason in ("missing image", "empty conversation") else 1) or reason in (
        "no character speaks",
        "unreadable profile",
    )
    (last,) = [dropped for dropped in drops.places if dropped.where.file == str(path)]
    assert (last.reason, last.where) == (reason, Where(str(path), 0))
    assert read_mmrole(raw, raw)[1].total == 5


KINDS = {
    "human-role": turns(("human", "Hi."), ("Ann Lee", "Hello."), ("human", "Bye."), ("Ann Lee", "Farewell.")),
    # Whoever is spoken to first is embodied, whoever has the last word.
    "inter-role": turns(("Bo", "Hi."), ("Ann Lee", "Hello."), ("Bo", "Why?"), ("Ann Lee", "So."), ("Bo", "Bye.")),
}


@pytest.fixture
def raw_kinds(raw):
    for kind, said in KINDS.items():
        folder = raw / "dialogues/in-distribution" / kind
        folder.mkdir()
        rows = [{"id": f"{kind}_{i}", "image": "a.png", "conversations": said} for i in range(4)]
        (folder / "Ann_Lee_COCO.json").write_text(json.dumps(rows))
        said = [turn | {"from": turn["from"].replace("Ann Lee", "Cy")} for turn in said]
        rows = [{"id": f"{kind}_out", "image": "a.png", "conversations": said}]
        (raw / "dialogues/out-of-distribution" / f"{kind}.json").write_text(json.dumps(rows))
    return raw


def test_the_paper_reads_commentary_alone_and_other_kinds_are_a_setting(raw_kinds):
    raw = raw_kinds

    def names(kinds):
        splits = vars(read_mmrole(raw, raw, kinds=kinds)[0]).values()
        return {e.id.split("_turn")[0] for part in splits for e in part}

    comment = {f"{name}_{i}" for name, count in (("a", 20), ("b", 20), ("o", 3)) for i in range(count)}
    assert names(("comment",)) == comment
    human = {"human-role_out", *(f"human-role_{i}" for i in range(4))}
    assert names(("human-role",)) == human
    assert names(("comment", "human-role")) == comment | human
    assert MMRoleRows("r", "i").kinds == ("comment",)
    for kinds in ((), ("comments",), ("comment", "comment")):
        with pytest.raises(ValueError, match=r"MMRoleRows\.kinds is .*, expected one or more of"):
            MMRoleRows("r", "i", kinds=kinds)
    source = MMRoleRows(str(raw), str(raw), kinds=("inter-role",))
    assert source.content() != MMRoleRows(str(raw), str(raw)).content()
    assert source.read(raw, "ood_test")[0].id == "inter-role_out_turn0"


def test_between_two_characters_the_other_one_is_the_user(raw_kinds):
    (row, _), *_ = process_raw(raw_kinds, raw_kinds, "in-distribution", Drops(), ("inter-role",))
    assert row["character_role"] == "Ann Lee"
    assert [turn["role"] for turn in row["conversations"]] == ["user", "assistant", "user", "assistant", "user"]
    first, second = mmrole_examples(row, WHERE, raw_kinds)
    assert first.messages[0]["content"] == "You are Ann Lee. Stay in character."
    assert (first.reference, second.reference) == ("Hello.", "So.")
    assert second.messages[1]["content"].endswith("History:\n[Bo]: Hi.\n[Ann Lee]: Hello.\nQuestion: Why?")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (None, "no object"),
        ({"individual_RoleSet": {}}, "no role set"),
        ({"individual_RoleSet": {"Home": 3}}, "no role set"),
        ({"query": 3}, "no question"),
        ({"query": "<image>"}, "no question"),
        ({"golden_response": None}, "no golden answer"),
        ({"golden_response": " \n"}, "no golden answer"),
        ({"image": None}, "missing image"),
        ({"image": {"file_path": "gone.png"}}, "missing image"),
        ({"image": {"file_path": "../raw/a.png"}}, "image outside the folder"),
        ({"eval_info": None}, "no eval_info"),
        ({"eval_info": {"ImageDesc": 3, "location": "y", "EvalHelp": "z"}}, "no eval_info"),
        ({"facts": 3}, "unusable row"),
        ({"id": "r6"}, "duplicate id"),
    ],
)
def test_an_odd_benchmark_row_is_counted_with_its_place_and_the_others_are_kept(raw, caplog, changes, reason):
    for name in FILES:
        rows = [help_row(i, id=f"r{i}") for i in range(20)]
        if name == FILES[0]:
            rows[7] = None if changes is None else rows[7] | changes
        (raw / f"{name}.json").write_text(json.dumps(rows))
    splits, drops = read_pcogalign(raw, raw)
    assert drops.counts == {reason: 1}
    assert drops.places[0].where == Where(str(raw / f"{FILES[0]}.json"), 7)
    kept = [f"r{i}" for i in range(20) if i != 7]
    random.Random(42).shuffle(kept)
    assert {e.id for e in splits.sft + splits.val} == set(kept[:9])
    assert {e.id for e in splits.rl} == set(kept[9:13])
    with caplog.at_level("WARNING", "lam_jax"):
        PCogAlignRows(str(raw), str(raw)).read(raw, "ls1")
    assert f"1 rows dropped (1 {reason})" in caplog.text
    assert f"{reason}: first in {raw / FILES[0]}.json, row 7" in caplog.text


def test_no_usable_benchmark_row_is_an_error(raw):
    for name in FILES:
        (raw / f"{name}.json").write_text(json.dumps([help_row(0, golden_response=None)]))
    with pytest.raises(
        DataError, match=r"no rows for 'ls1'; 3 rows dropped \(3 no golden answer\).*data build pcogalign"
    ):
        PCogAlignRows(str(raw), str(raw)).read(raw, "ls1")
