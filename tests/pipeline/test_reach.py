"""The probe of the codes' reach as a phase: what is scored, and what a run says before RL."""

import dataclasses
import logging
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.data.schemas import Example
from lam_jax.errors import IdleCodesError
from lam_jax.evaluation.generate import Answer, Answered
from lam_jax.evaluation.reach import Emissions
from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.latent.agent import Reading
from lam_jax.pipeline import reach
from lam_jax.pipeline.measures import Evaluator
from lam_jax.pipeline.reach import (
    idle_lines,
    measure_learned_reach,
    measure_reach,
    measure_reach_after_rl,
    require_reach,
)
from lam_jax.pipeline.resources import Resources
from lam_jax.recipe import PAIRED, TEXT_ONLY
from lam_jax.rewards.functions import FunctionReward
from lam_jax.train.spaces import LATENT, TOKEN
from tests import tiny
from tests.two_spaces import BOTH

EXAMPLES = [
    Example(f"r{i}", ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})) for i in range(3)
]
END = 8
NONE = np.zeros((0, 2))
EMPTY = Emissions(NONE[:, 0], NONE[:, 0], NONE[:, 0], NONE[:, 0], NONE, NONE[:, 0], NONE, NONE)


def length(examples, answers):
    return [[float(len(text)) for text in group] for group in answers]


def is_aimless(agent) -> bool:
    states = jnp.ones((1, 2, tiny.CONFIG.text.width))
    logits = agent.latent.policy(states, agent.backbone.rotary(jnp.zeros((1, 3, 2), jnp.int32)), jnp.ones((1, 2), bool))
    return not np.asarray(logits).any()


@pytest.fixture
def measured(monkeypatch):
    """(record, calls) of a space: row i is answered by i + 1 and i + 3 letters, or by one where codes are random."""
    calls = []

    def answers(self, agent, examples, config, salt, batch):
        aimless = self.space.coded and is_aimless(agent)
        calls.append((aimless, config, [example.id for example in examples], batch))
        groups = [("x", "x") if aimless else ("x" * (i + 1), "x" * (i + 3)) for i in range(len(examples))]
        return [Answered(e, [Answer(t, [7], [3]) for t in group]) for e, group in zip(examples, groups)]

    monkeypatch.setattr(Evaluator, "answers", answers)
    # Along the references the inverse model's codes emit 2 words in row 0 and 1 in row 1, the backbone none and 1.
    found = Emissions(
        row=np.array([0, 0, 0, 1]),
        target=np.array([5, 6, END, 5]),
        backbone_logp=np.log([0.5, 0.5, 0.5, 0.5]),
        backbone_token=np.array([END, 6, END, 5]),
        policy=np.log(np.full((4, 2), 0.5)),
        inferred=np.array([0, 1, 0, 0]),
        logp=np.log(np.full((4, 2), 0.5)),
        token=np.array([[5, 0], [0, 6], [END, 0], [5, 5]]),
    )
    monkeypatch.setattr(
        reach, "_look", lambda resources, source, split, agent: (found, [EXAMPLES[0], EXAMPLES[1], None])
    )
    recipe = BOTH
    recipe = dataclasses.replace(
        recipe, evaluation=dataclasses.replace(recipe.evaluation, reach=ReachSettings(prompts=3, samples=2))
    )
    task = dataclasses.replace(recipe.tasks[0], reward=FunctionReward(length))
    resources = object.__new__(Resources)
    for name, value in dict(
        recipe=recipe,
        config=SimpleNamespace(eos_ids=(END,)),
        first=lambda source, split, count: EXAMPLES[:count],
        rollout_config=lambda task, samples, sampling: (samples, sampling),
        tokenizer=SimpleNamespace(batch_decode=lambda rows, skip_special_tokens: ["x" * len(row) for row in rows]),
    ).items():
        object.__setattr__(resources, name, value)

    def measure(space, measure=measure_reach):
        return measure(resources, task, space, tiny.agent()), calls

    return measure


def test_scores_of_codes(measured):
    record, calls = measured(LATENT)
    scores = record["scores"]
    assert scores["policy"] == pytest.approx((1 + 3 + 2 + 4 + 3 + 5) / 6)
    assert scores["best_of"] == pytest.approx({"1": 3.0, "2": 4.0})
    assert (scores["random"], scores["random_best_of"]) == (1.0, {"1": 1.0, "2": 1.0})
    assert (scores["lead"], scores["lead_se"]) == pytest.approx((2.0, 1 / np.sqrt(3)))
    # Row 0: words 5 and 6, then an end; row 1: word 5. The backbone ends row 0 at once.
    assert (scores["oracle"], scores["backbone"]) == (1.5, 0.5)
    assert (record["reach"]["rows"], record["reach"]["after"], record["reach"]["positions"]) == ("role_play", "sft", 4)
    (policy, random) = calls
    assert (policy[0], random[0]) == (False, True)
    assert policy[1:] == random[1:], "one program draws both"
    assert policy[1][1] == BOTH.rl.sampling["latent"]


def test_tokens_have_no_codes_to_draw_at_random(measured):
    record, calls = measured(TOKEN)
    assert "reach" not in record
    assert set(record["scores"]) == {"task", "space", "after", "prompts", "samples", "policy", "best_of"}
    assert len(calls) == 1


@pytest.mark.parametrize("space", [LATENT, TOKEN])
def test_after_rl_the_same_answers_are_scored(measured, space):
    before, _ = measured(space)
    (record, calls) = measured(space, measure_reach_after_rl)
    assert list(record) == ["scores"]
    own = {name: value for name, value in before["scores"].items() if name not in ("oracle", "backbone")}
    assert record["scores"] == own | {"after": "rl"}
    assert own["after"] == "sft"
    assert [random for random, *_ in calls] == [False, True][: 1 + space.coded] * 2


RECORD = {
    "reach": {"gain_over_backbone": 0.051},
    "scores": {"policy": 0.61, "random": 0.6, "lead": 0.01, "lead_se": 0.02},
}


def test_a_run_whose_codes_move_nothing_says_so(caplog):
    task = BOTH.tasks[0]
    with caplog.at_level(logging.WARNING, "lam_jax"):
        require_reach(ReachSettings(), task, RECORD)
    (message,) = caplog.messages
    assert message.startswith("Task 'role_play', latent space: the codes hardly move the answers")
    assert "raise log p of a reference token by 0.051 nat over the backbone alone (least: 0.1)" in message
    assert "score 0.610 and answers under random codes 0.600, a lead of 0.010 +- 0.020 (least: 0.05)" in message
    assert "--sft-recipe learn" in message
    with pytest.raises(IdleCodesError, match=r"0\.051 nat.*reach\.stop asks to stop here"):
        require_reach(ReachSettings(stop=True), task, RECORD)
    assert IdleCodesError.exit_code == 18


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (ReachSettings(least_gain=0.05), ["a lead of"]),
        (ReachSettings(least_lead=0.01), ["nat over the backbone"]),
        (ReachSettings(least_gain=None, least_lead=0.0), []),
        (ReachSettings(least_gain=0.05, least_lead=None), []),
    ],
)
def test_thresholds_are_the_recipes(settings, lines, caplog):
    found = idle_lines(settings, RECORD)
    assert len(found) == len(lines)
    assert all(words in line for words, line in zip(lines, found))
    stopping = dataclasses.replace(settings, stop=True)
    if not lines:
        require_reach(stopping, BOTH.tasks[0], RECORD)
        assert not caplog.messages


def test_what_was_not_measured_is_not_asked_for():
    assert idle_lines(ReachSettings(), {}) == []
    assert idle_lines(ReachSettings(), {"scores": {"policy": 0.5}}) == []
    require_reach(None, BOTH.tasks[0], RECORD)


def test_rows_that_nothing_was_trained_on_are_looked_at(monkeypatch):
    """Held-out rows of both corpora and each task's validation rows, in this order; an empty one is left out."""
    looked = []

    def look(resources, source, split, agent):
        looked.append((source, split))
        count = 0 if source == TEXT_ONLY else 2
        values = np.log(np.full((count, 2), 0.5))
        zeros = np.zeros(count, int)
        return Emissions(zeros, zeros, values[:, 0], zeros, values, zeros, values, np.zeros((count, 2), int)), []

    monkeypatch.setattr(reach, "_look", look)
    recipe = BOTH
    resources = object.__new__(Resources)
    object.__setattr__(resources, "recipe", recipe)
    record = measure_learned_reach(resources, tiny.agent())
    assert looked == [(PAIRED, "test"), (TEXT_ONLY, "test"), ("role_play", "val"), ("help", "val")]
    assert [(row["rows"], row["after"]) for row in record["reach"]] == [
        (name, "stage4") for name in (PAIRED, "role_play", "help")
    ]


def test_rows_are_read_in_order_as_acting_reads_them(monkeypatch):
    """The reading is that of acting, and rows that fill a batch up have no example."""
    method = dataclasses.replace(BOTH.method, acting=Reading("block"))
    recipe = dataclasses.replace(BOTH, method=method)
    resources = object.__new__(Resources)
    for name, value in dict(
        recipe=recipe,
        chats={"help": "collator"},
        first=lambda source, split, count: EXAMPLES[:count],
    ).items():
        object.__setattr__(resources, name, value)
    batch = SimpleNamespace(tokens=np.zeros((4, 2)))
    made = SimpleNamespace(batch=batch, examples=tuple(EXAMPLES))
    monkeypatch.setattr(reach, "in_order", lambda rows, collate, size: [made] if collate == "collator" else [])
    asked = []
    monkeypatch.setattr(reach, "emissions", lambda agent, batches, reading: asked.append((batches, reading)) or EMPTY)
    _, examples = reach._look(resources, "help", "val", tiny.agent())
    assert asked == [([batch], Reading("block"))]
    assert examples == [*EXAMPLES, None]
