"""The one reward protocol, for training and for evaluation.

Legend: N prompts, G samples of a prompt.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from lam_jax.data.schemas import Example
from lam_jax.errors import RewardError
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


class RewardShapeError(RewardError, ValueError):
    """A reward gave something else than one number or verdict an answer; names the reward and both shapes.

    As with any failure of a reward, the steps of a run before it are saved.
    """


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
        inner = sorted({_length(item) for item in value})
        if inner in ([-1], []):
            kinds = sorted({type(item).__name__ for item in value if not isinstance(item, int | float)})
            what = f" ({', '.join(kinds)})" if kinds else ""
            return f"a flat list of {len(value)}{what}"
        lengths = ", ".join("no list" if n < 0 else str(n) for n in inner)
        deeper = {_length(one) for item in value if isinstance(item, list | tuple) for one in item} - {-1}
        lists = f", lists or arrays of length {', '.join(map(str, sorted(deeper)))} in them" if deeper else ""
        return f"a list of {len(value)} with items of length {lengths}{lists}"
    if isinstance(shape := getattr(value, "shape", None), tuple):
        return f"a {type(value).__name__} of shape {list(shape)}"
    return f"a {type(value).__name__}"


def _length(item: Any) -> int:
    """Of a list or an array; -1 of anything else."""
    if isinstance(item, list | tuple):
        return len(item)
    shape = getattr(item, "shape", ())
    return int(shape[0]) if isinstance(shape, tuple) and shape else -1


def rewards_of(verdicts: Verdicts) -> tuple[Float[np.ndarray, "N G"], Bool[np.ndarray, "N G"]]:
    """Training rewards (0 where the call failed) and whether each call succeeded, both [N, G]."""
    values = np.array([[verdict.reward if verdict.ok else 0.0 for verdict in row] for row in verdicts], np.float64)
    return values, np.array([[verdict.ok for verdict in row] for row in verdicts], bool)
