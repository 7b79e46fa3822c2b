import json
import subprocess
import sys

import pytest

from lam_jax.data.chat import ChatEncoder
from lam_jax.data.schemas import Where
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.scenes import rows
from lam_jax.scenes.advice import is_held_out
from lam_jax.scenes.characters import held_out_characters, training_characters
from lam_jax.scenes.compose import concepts
from lam_jax.scenes.grammar import tokens
from lam_jax.scenes.tokenizer import load_tokenizer
from lam_jax.tasks.mmrole import PROFILE_FIELDS, mmrole_examples
from lam_jax.tasks.pcogalign import pcogalign_examples

FORMS = {form: concept.name for concept in concepts() for form in (concept.name, concept.plural)}
WHERE = Where("scenes")


@pytest.fixture(scope="module")
def encoder():
    return ChatEncoder(load_tokenizer(), PRESETS["tiny"])


def named(text):
    return {FORMS[word] for word in tokens(text) if word in FORMS}


def examples(task, split, count):
    if task == "role_play":
        return [example for i in range(count) for example in mmrole_examples(rows.role_play(split, i), WHERE)]
    return [example for i in range(count) for example in pcogalign_examples(rows.help_row(split, i), WHERE)]


def test_rows_are_the_same_in_another_process():
    made = "(rows.paired(3), rows.text_only(3), rows.role_play('sft', 3), rows.help_row('ls2', 3))"
    digest = f"hashlib.sha256(repr({made}).encode()).hexdigest()"
    code = f"import hashlib; from lam_jax.scenes import rows; print({digest})"
    command = [sys.executable, "-c", code]
    digests = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1


def test_splits_and_indices_give_different_rows():
    texts = [json.dumps(rows.help_row(split, i)["golden_response"]) for split in rows.HELP_SPLITS for i in range(40)]
    assert len(set(texts)) > 0.98 * len(texts)
    pictures = {rows.role_play(split, i)["image_path"] for split in rows.ROLE_PLAY_SPLITS for i in range(20)}
    assert len(pictures) == 20 * len(rows.ROLE_PLAY_SPLITS)


def test_unknown_split_and_negative_index_are_named():
    with pytest.raises(ValueError, match="role_play_test'; expected one of"):
        rows.role_play("test", 0)
    with pytest.raises(ValueError, match="index -1 of split 'paired'"):
        rows.paired(-1)


def test_captions_name_every_object_and_nothing_else_and_are_most_of_the_paired_rows():
    drawn = [rows.paired(i) for i in range(400)]
    captions = [row for row in drawn if row["instance_type"] == "caption"]
    assert len(captions) > 0.5 * len(drawn)
    for row in captions + [rows.caption_test(i) for i in range(100)]:
        assert named(row["messages"][-1]["content"]) == {thing["name"] for thing in row["facts"]["objects"]}
        assert row["images"][0].startswith(b"\x89PNG")


def test_paired_answers_hold_what_their_facts_ask_for():
    for i in range(400):
        row = rows.paired(i)
        question, answer = row["facts"]["question"], row["messages"][-1]["content"]
        shown = {thing["name"] for thing in row["facts"]["objects"]}
        assert set(question["objects"]) <= named(answer) <= shown, row["messages"]
        if question["answer"]:
            assert {FORMS.get(word, word) for word in tokens(answer)} & set(question["answer"]), row["messages"]


def test_count_and_side_questions_are_answered_by_the_picture():
    kinds = set()
    for i in range(600):
        row = rows.paired(i)
        question, objects = row["facts"]["question"], row["facts"]["objects"]
        asked, text = row["messages"][-2]["content"], row["messages"][-1]["content"]
        if question["kind"] == "count":
            about = named(asked)
            number = sum(thing["name"] in about for thing in objects) if about else len(objects)
            assert question["answer"] == [("one", "two", "three")[number - 1], str(number)], row["messages"]
        elif question["kind"] == "left_of" and not named(asked):
            assert named(text) == {objects[0]["name"]}
        kinds.add(question["kind"])
    assert kinds >= {"describe", "name", "count", "category", "left_of", "right_of", "place"}


def test_text_only_rows_have_no_picture_and_tell_the_scene():
    kinds = set()
    for i in range(200):
        row = rows.text_only(i)
        assert "images" not in row
        first = next(message["content"] for message in row["messages"] if message["role"] == "user")
        assert {thing["name"] for thing in row["facts"]["objects"]} <= named(first)
        assert row["facts"]["background"] in first
        kinds.add(row["instance_type"])
    assert kinds == {"dialogue", "role_play", "help"}


@pytest.mark.parametrize("split", rows.ROLE_PLAY_SPLITS)
def test_role_play_rows_fit_and_keep_the_layout(split, encoder):
    cast = {c.name for c in (held_out_characters() if split == "ood_test" else training_characters())}
    turns, seen = set(), set()
    for i in range(200):
        row = rows.role_play(split, i)
        assert row["original_roles"] == ["human", row["character_role"]] * len(row["facts"])
        assert tuple(row["character_profile"][row["character_role"]]) == PROFILE_FIELDS
        seen.add(row["character_role"])
        turns.add(len(row["facts"]))
        for example in mmrole_examples(row, WHERE):
            assert len(encoder.encode(example.prompt, [12], generation_prompt=True)) <= 160
            answer = len(encoder.tokenizer(example.reference)["input_ids"]) + 1
            assert (14 if split == "sft" else 18) <= answer <= 64
    assert turns >= {1, 2}
    assert seen == cast


def test_some_conversations_have_three_turns(encoder):
    long = [row for row in (rows.role_play("ood_test", i) for i in range(600)) if len(row["facts"]) == 3]
    assert len(long) >= 5
    for row in long:
        last = mmrole_examples(row, WHERE)[-1]
        assert len(encoder.encode(last.prompt, [12], generation_prompt=True)) <= 160


@pytest.mark.parametrize("split", rows.HELP_SPLITS)
def test_help_rows_fit_and_keep_the_layout(split, encoder):
    for i in range(100):
        row = rows.help_row(split, i)
        roles = row["individual_RoleSet"]
        assert all(is_held_out(place, role) == (split == "ls2") for place, role in roles.items())
        assert roles[row["eval_info"]["location"]] == row["facts"]["role"]["role"]
        example = pcogalign_examples(row, WHERE)[0]
        assert len(encoder.encode(example.prompt, [12], generation_prompt=True)) <= 160
        assert 20 <= len(encoder.tokenizer(example.reference)["input_ids"]) + 1 <= 64


@pytest.mark.parametrize("task", ["role_play", "help"])
def test_only_sft_references_are_noisy(task):
    def invented(split):
        found = examples(task, split, 150)
        wrong = [bool(named(e.reference) - {o["name"] for o in e.facts["objects"]}) for e in found]
        return sum(wrong) / len(wrong)

    def styled(split):
        found = examples(task, split, 150)
        own = [
            e.facts["character"]["style_words"]["passion"] if task == "role_play" else e.facts["role"]["job_words"]
            for e in found
        ]
        good = [bool(set(words) & set(tokens(e.reference))) for e, words in zip(found, own)]
        return sum(good) / len(good)

    assert invented("rl") == 0.0
    assert 0.05 < invented("sft") < 0.3
    assert styled("rl") == 1.0
    low, high = {"role_play": (0.35, 0.7), "help": (0.85, 0.95)}[task]
    assert low < styled("sft") < high


def test_facts_are_plain_data():
    every = [rows.paired(0), rows.text_only(0), rows.text_only(1), rows.role_play("rl", 0), rows.help_row("rl", 0)]
    for row in every:
        assert json.loads(json.dumps(row["facts"])) == row["facts"]


def test_text_only_rows_are_long_enough_for_five_times_the_paired_tokens(encoder):
    paired = sum(len(encoder.encode(rows.paired(i)["messages"], [12])) for i in range(150))
    text = sum(len(encoder.encode(rows.text_only(i)["messages"])) for i in range(150))
    assert 4 * text >= 5 * paired  # four text-only rows for each paired one are enough
