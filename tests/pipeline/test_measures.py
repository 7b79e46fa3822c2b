"""What is measured of answers, with answers that a test makes up."""

import dataclasses
from types import SimpleNamespace

import pytest

from lam_jax.data.schemas import Example
from lam_jax.errors import NoUsableRewardError
from lam_jax.evaluation.generate import Answer, Answered
from lam_jax.pipeline.measures import Evaluator, gain
from lam_jax.rewards.functions import FunctionReward
from lam_jax.rewards.verdict import Verdict
from lam_jax.train.spaces import LATENT
from tests import tiny
from tests.two_spaces import BOTH

EXAMPLES = [
    Example(f"r{i}", ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})) for i in range(3)
]
ASKED = []
END = 8  # id of the end-of-turn token


def length(examples, answers):
    ASKED.extend(text for group in answers for text in group)
    return [[float(len(text)) for text in group] for group in answers]


@pytest.fixture
def evaluator(monkeypatch) -> Evaluator:
    """Of two answers to each of three rows: row i is answered by i + 1 and by 10 + i letters."""

    def answers(self, agent, examples, config, salt, batch):
        rows = {example.id: i for i, example in enumerate(EXAMPLES)}
        lengths = [(rows[example.id] + 1, rows[example.id] + 10) for example in examples]
        return [
            Answered(e, [Answer("x" * n, [7] * n + [END], [3] * n + [4]) for n in pair])
            for e, pair in zip(examples, lengths)
        ]

    monkeypatch.setattr(Evaluator, "answers", answers)
    recipe = BOTH
    task = dataclasses.replace(recipe.tasks[0], reward=FunctionReward(length))
    resources = SimpleNamespace(
        recipe=recipe,
        examples=lambda source, split: EXAMPLES,
        rollout_config=lambda task, samples, sampling: None,
        tokenizer=SimpleNamespace(decode=lambda tokens, skip_special_tokens: "" if tokens == [END] else "x"),
    )
    made = object.__new__(Evaluator)
    for name, value in (("resources", resources), ("task", task), ("space", LATENT)):
        object.__setattr__(made, name, value)
    return made


def failing(usable: int):
    """A reward of which only the first `usable` prompts get one."""

    @dataclasses.dataclass(frozen=True)
    class Failing:
        def __call__(self, examples, answers, samples):
            verdicts = [Verdict({"r": (1.0, 1.0)}), Verdict(error="status 400: no temperature", kind="http_400")]
            return [[verdicts[example.id >= f"r{usable}"] for _ in samples] for example in examples]

    return Failing()


def test_scores_of_failed_calls_alone_are_no_finished_phase(evaluator):
    """A run that goes on would keep them, and come to its end without a gain."""
    good = evaluator.task.reward
    for reward, judge, message in (
        (good, failing(0), "none of the 6 reward calls of the scores of 'id' after sft .*\n  http_400: 6 of 6"),
        (failing(0), good, "none of the 6 reward calls of the fixed training prompts"),
        (failing(1), good, "2 of the 6 reward calls of the fixed training prompts"),
    ):
        object.__setattr__(
            evaluator, "task", dataclasses.replace(evaluator.task, reward=reward, evaluation_reward=judge)
        )
        with pytest.raises(NoUsableRewardError, match=message):
            evaluator.measure(tiny.agent(), "sft")
    object.__setattr__(
        evaluator, "task", dataclasses.replace(evaluator.task, reward=good, evaluation_reward=failing(1))
    )
    found = evaluator.measure(tiny.agent(), "sft")
    assert [(row["prompts"], row["failed"]) for row in found["scores"][:2]] == [(1, 4), (1, 4)]


def test_no_gain_without_two_prompts_that_have_both():
    both = {"a": [1.0], "b": [2.0]}
    assert gain(both, {"a": [1.0], "c": [2.0]}) is None
    assert gain(both, {"a": [2.0], "b": [4.0], "c": [9.0]})["difference"] == 1.5


def test_shown_answers_have_the_scores_of_their_own_texts_and_are_scored_once(evaluator):
    ASKED.clear()
    found = evaluator.measure(tiny.agent(), "sft")
    for split in ("id", "ood"):
        assert [(a["text"], a["score"]) for a in found["answers"][split]] == [("x", 1), ("xx", 2), ("xxx", 3)]
    sets = len(evaluator.resources.recipe.evaluation.answers)
    assert len(ASKED) == sets * 2 * 6 + 6, "each answer of each split once, and those to the fixed prompts"
    assert [row["mean"] for row in found["scores"]] == [(1 + 2 + 3 + 10 + 11 + 12) / 6] * (2 * sets)
    assert found["fixed"] == {"r0": [1.0, 10.0], "r1": [2.0, 11.0], "r2": [3.0, 12.0]}


def test_the_end_of_turn_token_is_not_shown_nor_the_code_behind_it(evaluator):
    (first, *_) = evaluator.measure(tiny.agent(), "sft")["answers"]["id"]
    assert (first["tokens"], first["actions"]) == (["x"], [3])
