"""A game whose every number can be said by hand: answers are token numbers, the return is the sum of their evens."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lam_jax.data.schemas import Example
from lam_jax.environments.environment import EnvironmentStep, Observation


@dataclasses.dataclass(frozen=True)
class Counting:
    """A step's reward is the share of even numbers in the answer; it is over when an answer begins with an odd one.

    What is seen are the number of the turn (30 and up) and the answer's first number. The state is the turn and what is
    over.
    """

    turns: int = 3

    def reset(self, examples: Sequence[Example], seeds):
        return 0, np.zeros(len(examples), bool)

    def step(self, state, answers: Sequence[str]):
        turn, over = state
        numbers = [[int(word) for word in answer.split()] for answer in answers]
        rewards = np.array([np.mean([n % 2 == 0 for n in own] or [0]) for own in numbers])
        done = over | np.array([not own or own[0] % 2 == 1 for own in numbers])
        seen = [Observation(" ".join(map(str, [30 + turn, *own[:1]]))) for own in numbers]
        figures = {"first": np.array([float(own[0]) if own else 0.0 for own in numbers])}
        return (turn + 1, done), EnvironmentStep(seen, np.where(over, 0.0, rewards), done, figures)
