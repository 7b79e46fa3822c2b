"""The one reward protocol, for training and for evaluation.

Legend: N prompts, G samples of a prompt.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from lam_jax.data.schemas import Example
from lam_jax.rewards.verdict import Verdict

# [N][G], one verdict an answer.
Verdicts = list[list[Verdict]]


@runtime_checkable
class Reward(Protocol):
    """Scores answers. A recipe holds rewards, so each is a frozen dataclass of plain values."""

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts [N][G] on answers [N][G].

        Args:
            examples: [N] rows with prompt, reference and facts.
            answers: [N][G] texts without special tokens.
            samples: [G] numbers of the samples: with the row's id they key a verdict, whatever process asks for it.
        """
        ...


@runtime_checkable
class WithContent(Protocol):
    """A reward whose code belongs to a run: other code under the same name is another run."""

    def content(self) -> str:
        """A hash of the code."""
        ...


class RewardShapeError(ValueError):
    """A reward gave something else than one number or verdict an answer; names the reward and both shapes."""


def check_verdicts(verdicts: Any, name: str, prompts: int, samples: int) -> Verdicts:
    """`verdicts`, if they are [N][G] verdicts.

    Raises:
        RewardShapeError: they are not.
    """
    rows = list(verdicts) if isinstance(verdicts, list | tuple) else None
    if rows is None or len(rows) != prompts or any(not isinstance(r, list | tuple) or len(r) != samples for r in rows):
        raise RewardShapeError(
            f"Reward {name}: found {describe_shape(verdicts)}, expected one verdict an answer: a list of {prompts} "
            f"lists of {samples}."
        )
    for row in rows:
        for verdict in row:
            if not isinstance(verdict, Verdict):
                raise RewardShapeError(
                    f"Reward {name}: found {type(verdict).__name__} {verdict!r}, expected a Verdict."
                )
    return rows


def describe_shape(value: Any) -> str:
    """What a value is, for a message: its type and the lengths of its levels."""
    if value is None or isinstance(value, str | int | float):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    if isinstance(value, list | tuple):
        inner = sorted({len(item) if isinstance(item, list | tuple) or np.ndim(item) else -1 for item in value})
        if inner in ([-1], []):
            return f"a flat list of {len(value)}"
        lengths = ", ".join("no list" if n < 0 else str(n) for n in inner)
        return f"a list of {len(value)} with items of length {lengths}"
    return f"a {type(value).__name__}"


def rewards_of(verdicts: Verdicts) -> tuple[Float[np.ndarray, "N G"], Bool[np.ndarray, "N G"]]:
    """Training rewards (0 where the call failed) and whether each call succeeded, both [N, G]."""
    values = np.array([[verdict.reward if verdict.ok else 0.0 for verdict in row] for row in verdicts], np.float64)
    return values, np.array([[verdict.ok for verdict in row] for row in verdicts], bool)
