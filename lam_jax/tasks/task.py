"""A task as a value: rows, splits, reward and lengths. For a task of your own make a `Task`; see `lam_jax.recipes.own`.

The prompt builder is part of the row source: it makes of a row an `Example`, a chat that ends in the reference answer.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.data.sources import RowSource
from lam_jax.rewards.reward import Reward

logger = logging.getLogger("lam_jax")


@dataclasses.dataclass(frozen=True)
class ScoredSplit:
    """Rows that are scored.

    Attributes:
        split: name in the row source.
        title: in reports.
    """

    split: str
    title: str


@dataclasses.dataclass(frozen=True)
class Task:
    """What an agent is fine-tuned and reinforced on.

    Attributes:
        name: in phases, metrics and results: letters, digits and _.
        title: in reports.
        rows: where the rows come from, prompts built.
        reward: scores answers in training, and in evaluation where no other does.
        chat_lengths: buckets of whole chats in stage 5, tokens; longer rows are cut on the right.
        prompt_lengths: buckets of prompts, tokens; of longer ones the oldest text is cut, all picture tokens and the
            chat's header kept.
        answer_length: most tokens of an answer.
        sft, rl, val: names of the splits of stage 5, of stage 6 and of validation.
        tests: key in results ("id", "ood") -> split that is scored.
        evaluation_reward: scores answers to the `tests`; None: `reward` does. Validation and RL's gain on training
            prompts are the training reward's in any case.
        check: whether a text is well formed (for example fluent); its share is reported. None: not measured.
    """

    name: str
    title: str
    rows: RowSource
    reward: Reward
    chat_lengths: tuple[int, ...]
    prompt_lengths: tuple[int, ...]
    answer_length: int
    sft: str = "sft"
    rl: str = "rl"
    val: str = "val"
    tests: Mapping[str, ScoredSplit] = dataclasses.field(
        default_factory=lambda: {"id": ScoredSplit("id_test", "ID"), "ood": ScoredSplit("ood_test", "OOD")}
    )
    check: Callable[[str], bool] | None = None
    evaluation_reward: Reward | None = None

    def __post_init__(self):
        if not self.name.replace("_", "").isalnum() or not self.name.isascii():
            raise ValueError(f"Task.name is {self.name!r}, expected ASCII letters, digits and '_'.")
        if self.answer_length < 1:
            raise ValueError(f"Task {self.name!r}: answer_length is {self.answer_length}, expected at least 1 token.")
        for field in ("chat_lengths", "prompt_lengths"):
            require_lengths(getattr(self, field), f"Task {self.name!r}: {field}")
        if not self.tests:
            raise ValueError(f"Task {self.name!r}: tests is empty, expected one split or more that is scored.")

    @property
    def examiner(self) -> Reward:
        """What scores the answers to the `tests`."""
        return self.evaluation_reward or self.reward


def require_lengths(lengths: Sequence[int], name: str) -> None:
    """Raises ValueError unless `lengths` are increasing positive bucket lengths."""
    if not lengths or list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
        raise ValueError(f"{name} is {tuple(lengths)}, expected increasing positive numbers of tokens.")


def split_of(splits: Any, name: str, file: str) -> list[Example]:
    """The field `name` of a dataclass of splits.

    Raises:
        DataError: no such split.
    """
    known = [field.name for field in dataclasses.fields(splits)]
    if name not in known:
        raise DataError(Where(file), None, f"no split {name!r}", f"one of {known}", "Correct the name.")
    return getattr(splits, name)


_TOLD: set[tuple[Any, ...]] = set()


def report_drops(source: str, drops: Drops) -> None:
    """Tells the log how many rows of a source were left out, by reason, and where the first of each stands.

    The same of the same source is told once: each split that is read comes by here.
    """
    told = (source, *((reason, count, str(drops.first(reason))) for reason, count in sorted(drops.counts.items())))
    if not drops.total or told in _TOLD:
        return
    _TOLD.add(told)
    logger.warning("%s: %s", source, drops)
    for reason in sorted(drops.counts):
        if (first := drops.first(reason)) is not None:
            detail = f": {first.detail}" if first.detail else ""
            logger.warning("  %s: first in %s%s", reason, first.where, detail)
