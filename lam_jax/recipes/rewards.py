"""Rewards by name, as flags give them: "similarity", "judge", `file.py:function`, `module:function`; with `=WEIGHT`."""

import importlib
from collections.abc import Sequence
from typing import Any

from lam_jax.rewards.dimensions import RUBRICS
from lam_jax.rewards.embedding import SimilarityReward
from lam_jax.rewards.functions import FileReward, FunctionReward, ScoreFunction, WeightedReward
from lam_jax.rewards.judge import JudgeConfig, JudgeReward
from lam_jax.rewards.reward import Reward

Rewards = Sequence[str] | Reward | ScoreFunction


def reward_of(rewards: Rewards, judge: JudgeConfig | None = None) -> Reward:
    """A reward of names, of a function, or of a reward; `judge`: of the names "judge" and "judge:RUBRIC".

    Raises:
        ValueError: no name, or one that there is no reward for.
    """
    if isinstance(rewards, str):
        return reward_of((rewards,), judge)
    if isinstance(rewards, Sequence):
        return _sum_of(rewards, judge)
    # A frozen dataclass is a `Reward`, which also gets the numbers of the samples.
    return rewards if hasattr(rewards, "__dataclass_fields__") else FunctionReward(rewards)  # pyright: ignore[reportReturnType, reportArgumentType]


def _sum_of(names: Sequence[str], judge: JudgeConfig | None) -> Reward:
    parts = [(name, *_weight(name)) for name in names]
    found = [(_reward_named(name, judge), weight) for _, name, weight in parts]
    if len(found) == 1 and found[0][1] == 1.0:
        return found[0][0]
    labels = [getattr(reward, "name", name) for (reward, _), (_, name, _) in zip(found, parts)]
    if len(set(labels)) < len(labels):  # two files may have functions of one name
        labels = [name for _, name, _ in parts]
    return WeightedReward(tuple((label, reward, weight) for label, (reward, weight) in zip(labels, found)))


def _weight(text: str) -> tuple[str, float]:
    name, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError as error:
        raise ValueError(f"Reward {text!r}: found the weight {weight!r}, expected a number after '='.") from error


def _reward_named(name: str, judge: JudgeConfig | None) -> Reward:
    if name == "similarity":
        return SimilarityReward()
    if name == "judge" or name.startswith("judge:"):
        rubric = name.partition(":")[2] or "answer"
        if rubric not in RUBRICS:
            raise ValueError(f"Reward {name!r}: found the rubric {rubric!r}, expected one of {sorted(RUBRICS)}.")
        if judge is None:
            raise ValueError(
                f"Reward {name!r}: expected --judge and --judge-model beside it, the endpoint and its model."
            )
        return JudgeReward(judge, RUBRICS[rubric])
    place, colon, function = name.rpartition(":")
    expected = "expected 'similarity', 'judge', `file.py:function` or `module:function`"
    if not colon:
        raise ValueError(f"Reward {name!r}: {expected}.")
    if place.endswith(".py"):
        return FileReward.of(place, function)
    try:
        found: Any = getattr(importlib.import_module(place), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"Reward {name!r}: {error}; {expected}.") from error
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"Reward {name!r}: found {found!r}; {expected}.")
    return reward_of(found)
