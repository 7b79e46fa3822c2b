"""What of a prompt that is too long is kept: it stays a chat. And how the lengths of rows are told."""

import dataclasses

import numpy as np
import pytest

from lam_jax.data.collator import Collator, CollatorConfig, Cuts
from lam_jax.data.lengths import measure_lengths
from lam_jax.data.schemas import DataError, Example
from lam_jax.models.processor import ImageSettings
from lam_jax.tasks.mmrole import system_message, user_prompt

SMALL = ImageSettings(size=(56, 56))  # 4 tokens
VISION = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"


@pytest.fixture
def collate(encoder):
    def make(length, **options):
        return Collator(encoder, CollatorConfig((length,), kind="prompt", padding="left", image=SMALL, **options))

    return make


def chat(*turns, images=(), system=None):
    head = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    messages = [*head, *({"role": roles[i % 2], "content": text} for i, text in enumerate(turns))]
    return Example("row", tuple(messages), tuple(images))


def text_of(tokenizer, out):
    batch = out.batch
    return tokenizer.decode(np.asarray(batch.tokens[0])[np.asarray(batch.mask[0])])


def test_a_cut_prompt_keeps_system_line_opening_picture_and_the_newest_text(collate, encoder, tokenizer, make_png):
    row = chat("old " * 60 + "new cats?", images=[make_png()], system="You are a cat.")
    whole = encoder.encode(row.prompt, [4], generation_prompt=True)
    out = collate(80)([row])
    text = text_of(tokenizer, out)
    head = f"<|im_start|>system\nYou are a cat.<|im_end|>\n<|im_start|>user\n{VISION}"
    assert text.startswith(head)
    assert text.endswith("old new cats?<|im_end|>\n<|im_start|>assistant\n")
    assert out.batch.mask.all(), "all the room is used"
    assert out.cuts == Cuts(1, len(whole) - 80)
    tokens = out.batch.tokens[0].tolist()
    kept = len(encoder.encode(row.prompt, [4]).tokens[: tokens.index(4) + 1])  # 4: the vision's end
    assert tokens[:kept] == whole.tokens[:kept].tolist()
    assert tokens[kept:] == whole.tokens[kept - 80 :].tolist()
    assert (out.batch.valid[0] == ~np.isin(tokens, (3, 4, 5))).all()


@pytest.mark.parametrize("picture", [True, False])
def test_a_cut_role_play_prompt_keeps_the_name(collate, tokenizer, make_png, picture):
    """The published layout: name, profile, history, question in one user turn."""
    profile = {"introduction": "A cat who sits under a tree. " * 8, "personality": "Two cats in one. " * 8}
    history = [("human", "How many apples are there? " * 4), ("Tom Cat", "There are two. " * 4)]
    prompt = user_prompt("Tom Cat", profile, history, "What is left of the tree?")
    images = [make_png()] if picture else []
    messages = (system_message("Tom Cat"), {"role": "user", "content": prompt})
    text = text_of(tokenizer, collate(120)([Example("row", messages, tuple(images))]))
    opening = f"<|im_start|>user\n{VISION * picture}Name: Tom Cat\n"
    assert text.startswith(f"<|im_start|>system\nYou are Tom Cat. Stay in character.<|im_end|>\n{opening}")
    assert text.endswith("Question: What is left of the tree?<|im_end|>\n<|im_start|>assistant\n")
    assert "Introduction" not in text, "the oldest text goes first"
    assert text.count("<|im_start|>") == 3


def test_a_first_line_that_is_no_name_is_text(collate, tokenizer):
    text = text_of(tokenizer, collate(60)([chat("A cat\n" + "old " * 90)]))
    assert text.startswith("<|im_start|>user\n")
    assert "A cat" not in text


def test_turns_that_are_given_up_go_with_their_marks(collate, tokenizer):
    """Every text that is left stands in the turn of the one who said it."""
    row = chat("one " * 12, "two " * 12, "three " * 12, "four " * 12, "five?", system="S")
    lengths = {}
    for length in range(40, 150, 3):
        out = collate(length)([row])
        text = text_of(tokenizer, out)
        assert text.startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n")
        assert text.endswith("<|im_start|>user\nfive?<|im_end|>\n<|im_start|>assistant\n")
        turns = [turn.split("\n", 1) for turn in text.split("<|im_start|>")[1:]]
        said = {"user": "one three five?", "assistant": "two four"}
        for role, content in turns[1:-1]:
            words = content.removesuffix("<|im_end|>\n").split()
            assert all(word in said[role] for word in words), (length, turns)
            assert words or role == "user", "an empty turn"
        left = "".join(content for _, content in turns[1:-1])
        order = [left.find(word) for word in ("one", "two", "three", "four", "five") if word in left]
        assert order == sorted(order)
        lengths[length] = int(np.asarray(out.batch.mask).sum())
        assert length - lengths[length] <= 12, "no more is given up than has to be"
    assert len(set(lengths.values())) > 10


def test_a_picture_of_a_turn_that_is_given_up_keeps_its_turn(collate, tokenizer, make_png):
    row = chat("one " * 30, "two " * 30, "five?", images=[make_png()], system="S")
    text = text_of(tokenizer, collate(60)([row]))
    assert text.startswith(
        f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n{VISION}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "one" not in text
    assert "two" in text


def test_a_header_that_fills_the_prompt_is_refused(collate, make_png):
    row = chat("a " * 40, images=[make_png()], system="You are a cat. " * 20)
    with pytest.raises(
        DataError, match=r"6 vision tokens and \d+ of the chat's header; expected fewer than .* 60 tokens"
    ):
        collate(60)([row])


def test_a_prompt_that_fits_is_not_touched(collate, encoder, make_png):
    row = chat("cats?", images=[make_png()])
    whole = encoder.encode(row.prompt, [4], generation_prompt=True)
    out = collate(len(whole))([row])
    assert out.batch.tokens[0].tolist() == whole.tokens.tolist()
    assert out.cuts == Cuts()


def test_lengths_are_told(collate, encoder, make_png):
    rows = [chat("x " * count, images=[make_png()] * (count % 2)) for count in (1, 2, 30, 61)]
    lengths = [len(encoder.encode(r.prompt, [4] * len(r.images), generation_prompt=True)) for r in rows]
    found = measure_lengths("prompts", collate(40), rows)
    assert (found.rows, found.looked_at, found.bucket, found.longer) == (4, 4, 40, 2)
    assert (found.longest, found.median) == (max(lengths), float(np.median(lengths)))
    assert found.cut == sum(n - 40 for n in lengths if n > 40)
    assert str(found).startswith("prompts: 2 of 4 rows (50.0%) are longer than the largest bucket of 40 tokens")
    some = measure_lengths("prompts", collate(40), rows * 5, most=10)
    assert (some.rows, some.looked_at) == (20, 10)
    assert "10 looked at of 20 rows" in str(some)


def test_lengths_of_pictures_of_any_size_are_read_from_their_sizes(encoder, make_png):
    free = ImageSettings(size=None)
    collator = Collator(
        encoder, CollatorConfig((400,), kind="prompt", padding="left", image=free, patches=256, windows=64)
    )
    row = chat("cats?", images=[make_png()])
    (length,) = collator.lengths([row])
    assert length == int(collator([row]).batch.mask.sum())
    assert dataclasses.replace(row, images=(), places=()) != row
