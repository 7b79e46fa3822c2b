"""What a reward says about one answer: a score of the answer and of the reference on each dimension."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Scores of an answer and its reference, or the reason why there are none.

    Attributes:
        scores: dimension -> (score of the answer, score of the reference); empty if the call failed.
        error: why the call failed; None if it succeeded.
        parts: what the reward is made of, by name, where the dimensions do not tell: they are logged apart.
        kind: of a failed call, what went wrong as a short slug, by which failures are counted: `timeout`, `rate_limit`,
            `http_400`, `truncated`, `unparsable`, `refused` and the like.
    """

    scores: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    error: str | None = None
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    kind: str | None = None

    def __post_init__(self):
        if bool(self.scores) == (self.error is not None):
            raise ValueError(
                f"a verdict holds scores or an error, not both and not neither: found {len(self.scores)} dimensions "
                f"and error {self.error!r}"
            )
        for name, (answer, reference) in self.scores.items():
            if not (math.isfinite(answer) and math.isfinite(reference)):
                raise ValueError(f"dimension {name!r}: found {answer} and {reference}, expected finite scores")
            if reference <= 0:
                raise ValueError(f"dimension {name!r}: the reference scores {reference}, expected more than 0")
        for name, value in self.parts.items():
            if not math.isfinite(value):
                raise ValueError(f"part {name!r}: found {value}, expected a finite number")

    @property
    def ok(self) -> bool:
        """The call succeeded."""
        return self.error is None

    @property
    def reward(self) -> float:
        """Training reward: sum of the answer's scores / sum of the reference's (method.md section 4)."""
        self._require_scores()
        answers, references = zip(*self.scores.values(), strict=True)
        return sum(answers) / sum(references)

    def as_reward(self) -> Verdict:
        """The verdict with the training reward as its one dimension, of which the reference has 1."""
        return Verdict({"reward": (self.reward, 1.0)})

    @property
    def ratios(self) -> dict[str, float]:
        """Answer / reference of each dimension."""
        self._require_scores()
        return {name: answer / reference for name, (answer, reference) in self.scores.items()}

    @property
    def named(self) -> Mapping[str, float]:
        """The parts, or else the ratio of each dimension: what is logged and reported by name."""
        return self.parts or self.ratios

    @property
    def mean_ratio(self) -> float:
        """Evaluation score: mean over dimensions of answer / reference (method.md section 5)."""
        return sum(self.ratios.values()) / len(self.scores)

    def _require_scores(self) -> None:
        if not self.ok:
            raise ValueError(f"a failed call has no scores ({self.error}); check `ok` first")
