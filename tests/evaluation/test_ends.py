"""Answers that end in one of several tokens, the last place included: finished, and their text without that token."""

import dataclasses

import jax
import numpy as np

from lam_jax.evaluation.generate import generate
from lam_jax.rollout.actions import TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from tests import tiny
from tests.train.made_rl import EXAMPLE, prompts

T, SAMPLES = 4, 8


class Literal:
    """A tokenizer that calls no token special."""

    def batch_decode(self, rows, skip_special_tokens):
        return [" ".join(map(str, row)) for row in rows]


def answers(ends):
    backbone = tiny.agent().backbone
    config = dataclasses.replace(backbone.config, eos_id=ends[0], other_eos_ids=tuple(ends[1:]))
    space = TokenActions(backbone.replace(config=config))
    rollout = RolloutConfig(SAMPLES, T, SamplingConfig(temperature=2.0), segment=T)

    def collate(examples, rows):
        return prompts(0)

    made = generate(space, [EXAMPLE] * 2, collate, Literal(), rollout, jax.random.key(0), 2)
    return [answer for item in made for answer in item.answers]


def test_each_of_several_tokens_ends_an_answer():
    whole = np.array([answer.tokens for answer in answers((tiny.VISION_START,)) if len(answer.tokens) == T])
    assert len(whole) > SAMPLES
    first, other = int(whole[0, 1]), int(whole[1, T - 1])
    for ends in ((first, other), (other, first)):
        found = answers(ends)
        assert {answer.tokens[-1] for answer in found if answer.finished} == {first, other}
        assert any(answer.finished and len(answer.tokens) == T for answer in found)
        for answer in found:
            body = answer.tokens[:-1] if answer.finished else answer.tokens
            assert not set(body) & {first, other}
            assert answer.finished or len(answer.tokens) == T
            assert answer.text == " ".join(map(str, body))
