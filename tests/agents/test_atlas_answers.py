"""Parts of an atlas about answers and rows, by hand: what RL changed, forced codes, which rows are whose."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from lam_jax.agents import atlas_answers
from lam_jax.agents.atlas_answers import Shown, Texts, changed_answers, changed_positions, own_usage, perplexity, spread
from lam_jax.agents.atlas_rows import speaker_of
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.data.schemas import Example
from lam_jax.evaluation.generate import Answer, Answered
from tests.evaluation.test_code_tables import row

WORDS = {1: "red", 2: " cat", 3: "<|im_end|>", 4: "<|image_pad|>", 5: "<|im_start|>", 6: "assistant", 7: "\n"}


class Tokenizer:
    def decode(self, tokens, skip_special_tokens=False):
        return "".join(WORDS[t] for t in tokens if not (skip_special_tokens and t in (3, 4, 5)))


def example(name, **facts):
    chat = ({"role": "user", "content": f"ask {name}"}, {"role": "assistant", "content": "!"})
    return Example(name, chat, facts=facts or None)


def answered(name, *said):
    """An answer for each (text, tokens, codes)."""
    return Answered(example(name), [Answer(text, tokens, codes, finished=True) for text, tokens, codes in said])


def read(example, *chosen):
    return dataclasses.replace(row(example.id, list(chosen), [1.0] * len(chosen)), example=example)


def test_positions_whose_code_changed():
    one, two = example("a"), example("b")
    found = changed_positions([read(one, 1, 2, 3), read(two, 0)], [read(two, 5), read(one, 1, 2, 4)])
    assert found == {"changed": 0.5, "positions": 4}


def test_what_rl_changed_in_answers():
    before = [answered("a", ("red", [1, 3], [0, 1])), answered("b", ("red", [1, 3], [0, 0]))]
    after = [answered("a", ("red", [1, 3], [2, 2])), answered("b", ("red cat", [1, 2, 3], [2, 3, 2]))]
    found = changed_answers(before, after, 4, Texts(Tokenizer()), Shown())
    assert found["own_usage_before"] == [0.75, 0.25, 0, 0]
    assert found["own_usage_after"] == pytest.approx([0, 0, 0.8, 0.2])
    assert found["own_perplexity_before"] == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert (found["prompts"], found["answers_changed"]) == (2, 1)
    (shown,) = found["examples"]
    assert (shown["row"], shown["question"]) == ("b", "ask b")
    assert shown["before"] == {"text": "red", "tokens": ["red"], "codes": [0]}
    assert shown["after"] == {"text": "red cat", "tokens": ["red", " cat"], "codes": [2, 3]}
    assert found["figures_after"]["length"]["mean"] > found["figures_before"]["length"]["mean"]


def test_usage_of_no_answer_is_nothing():
    assert own_usage([], 3).tolist() == [0, 0, 0]
    assert perplexity(np.zeros(3)) == 1


def test_what_begins_an_answer_and_a_picture_are_signs():
    texts = Texts(Tokenizer())
    assert texts.decode([4, 4, 4, 1]) == "▣red"
    assert texts.decode([1, 3, 7, 5, 6, 7, 2]) == "red▶  cat"
    assert texts.decode([6, 7, 1]) == "▶ red"
    assert texts.decode([1, 6, 7]) == "redassistant\n"


def test_each_code_is_forced_in_its_own_sample(monkeypatch):
    """Five codes, two at a time: an answer is that of the sample of its code, the one that was filled up is dropped."""
    monkeypatch.setattr(atlas_answers, "TOGETHER", 2)
    asked = []

    def generate(space, prompts, collate, tokenizer, config, key, rows):
        allowed = np.asarray(space.bias) > -1
        asked.append(allowed.sum(1).tolist())
        codes = allowed.argmax(1)
        return [Answered(p, [Answer(f"{p.id} {c % 3}", [1], [int(c)], finished=True) for c in codes]) for p in prompts]

    monkeypatch.setattr(atlas_answers, "generate", generate)
    monkeypatch.setattr(atlas_answers, "SteeredActions", lambda space, bias: SimpleNamespace(bias=bias))
    agent = object.__new__(LoadedAgent)
    vars(agent).update(actions=None, prompts=None, tokenizer=None)
    free = [answered("a", ("free a", [1], [0])), answered("b", ("free b", [1], [0]))]
    found = atlas_answers.forced_answers(agent, free, 5, 9, Shown())
    assert found["length"] == 9
    assert asked == [[1, 1]] * 3
    assert [q["free"] for q in found["prompts"]] == ["free a", "free b"]
    assert [[x["text"] for x in q["answers"]] for q in found["prompts"]] == [
        [f"{name} {code % 3}" for code in range(5)] for name in "ab"
    ]
    assert [q["distinct"] for q in found["prompts"]] == [3, 3]
    assert atlas_answers.forced_answers(agent, [], 5, 9, Shown()) == {"length": 9, "prompts": []}


@pytest.mark.parametrize(
    ("facts", "text", "speaker"),
    [
        ({"character": "Ada"}, "Name: Bob\nHi", "Ada"),
        ({"character": {"name": "Ada"}}, "Hi", "Ada"),
        ({"character": {"role": "x"}, "role": "Cook"}, "Hi", "Cook"),
        ({}, "Name: Bob\nHi", "Bob"),
        ({}, "Hi\nName: Bob", None),
    ],
)
def test_who_speaks(facts, text, speaker):
    chat = ({"role": "user", "content": text}, {"role": "assistant", "content": "!"})
    assert speaker_of(Example("r", chat, facts=facts or None)) == speaker


def test_spread_takes_the_ends():
    assert spread(list("abcdefg"), 3) == ["a", "d", "g"]
    assert spread([], 3) == []
