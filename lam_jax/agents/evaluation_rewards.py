"""What scores an evaluation: its identity, its name, what it needs, and the judges in it."""

from collections.abc import Iterable, Sequence
from typing import Any

from lam_jax.data.schemas import DataError, Example, require_reference
from lam_jax.rewards.embedding import SimilarityReward
from lam_jax.rewards.functions import WeightedReward
from lam_jax.rewards.judge import JudgeReward, judges_of, warn_same_judge
from lam_jax.rewards.judge_config import OPERATION
from lam_jax.rewards.reward import Reward, WithContent, check_verdicts
from lam_jax.values import TYPE, ValueFormError, encode

_LEFT_OUT = {"JudgeConfig": OPERATION, "FileReward": ("file",)}  # they change no verdict


def reward_identity(reward: Reward | None) -> Any:
    """A reward as JSON values with the hash of its code; how a judge is reached is no part."""
    if reward is None:
        return None
    try:
        value = _without(encode(reward, "reward"))
    except ValueFormError:  # an object of the caller's own
        value = {TYPE: f"{type(reward).__module__}:{type(reward).__qualname__}", "name": getattr(reward, "name", "")}
    return {"value": value} | ({"code": reward.content()} if isinstance(reward, WithContent) else {})


def _without(value: Any) -> Any:
    if isinstance(value, list):
        return [_without(item) for item in value]
    if not isinstance(value, dict):
        return value
    left_out = _LEFT_OUT.get(str(value.get(TYPE, "")).rpartition(":")[2], ())
    return {key: _without(item) for key, item in value.items() if key not in left_out}


def judge_models(reward: Reward | None) -> list[str]:
    """Names of the judge models in a reward."""
    return [judge.judge.model for judge in judges_of(reward)]


def reward_name(reward: Reward | None) -> str | None:
    """How a reward is called in a result."""
    if reward is None:
        return None
    if models := judge_models(reward):
        return f"judge {', '.join(dict.fromkeys(models))}"
    if isinstance(reward, WeightedReward):
        return " + ".join(name for name, _, _ in reward.rewards)
    return str(getattr(reward, "name", type(reward).__name__))


def require_scorable(reward: Reward, examples: Sequence[Example]) -> None:
    """Finds before anything is answered what a reward cannot score.

    Raises:
        DataError: a row without the reference answer or the facts that a reward needs.
        RewardShapeError, RewardError: a function that fails on the first row. A judge is not asked: that costs.
    """
    if _needs_reference(reward):
        for example in examples:
            require_reference(example)
    for judge in judges_of(reward):
        for example in examples:
            if missing := [key for key in judge.rubric.facts if key not in (example.facts or {})]:
                fix = "Add them, or ask the judge by another rubric."
                expected = f"{', '.join(judge.rubric.facts)}, which the judge is told"
                raise DataError(example.where, "facts", f"no {', '.join(missing)}", expected, fix)
    if not judge_models(reward):
        first = examples[0]
        text = first.reference if first.has_reference else first.prompt[-1]["content"]
        check_verdicts(reward([first], [[text]], range(1)), type(reward).__name__, 1, 1)


def _needs_reference(reward: Reward) -> bool:
    if isinstance(reward, WeightedReward):
        return any(_needs_reference(part) for _, part, _ in reward.rewards)
    return isinstance(reward, SimilarityReward | JudgeReward)


def warn_of_judges(pairs: Iterable[tuple[Reward | None, Reward | None]], reference_writer: str | None) -> None:
    """Warns once of each judge that has several roles; `pairs`: what trained an agent, and what scores it."""
    roles = {
        (trainer, examiner): None
        for trained_by, reward in pairs
        for examiner in judge_models(reward)
        for trainer in judge_models(trained_by) or [""]
    }
    for trainer, examiner in roles:
        warn_same_judge(trainer, examiner, reference_writer)
