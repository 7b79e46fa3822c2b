"""The reward of one answer in a game: what its first step gives."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lam_jax.data.schemas import Example
from lam_jax.environments.environment import Environment
from lam_jax.environments.play import Games
from lam_jax.rewards.reward import Verdicts


@dataclasses.dataclass(frozen=True)
class FirstStepReward:
    """Scores an answer to a row's prompt as the first of a game, which ends there.

    Attributes:
        environment: of the game.
    """

    environment: Environment

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts [N][G] of the first steps."""
        rows = [example for example, texts in zip(examples, answers, strict=True) for _ in texts]
        games = Games(self.environment, rows, np.arange(len(rows), dtype=np.uint32))
        games.answer([text for texts in answers for text in texts])
        found = iter(games.verdicts())
        return [[next(found) for _ in texts] for texts in answers]
