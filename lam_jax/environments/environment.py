"""The protocol of an environment that is played turn by turn: reset, step, reward, done.

B games are played side by side. A game begins with the prompt of its row, which shows what there is to see before the
first answer. Each answer of the agent is a step, and what the environment shows then is the next user turn, with its
pictures. The return of a game, the sum of its rewards, is the reward of all answers in it.

Legend: B games.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt32

from lam_jax.data.schemas import Example, ImageSource
from lam_jax.errors import RewardError


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a user turn shows.

    Attributes:
        text: of the turn.
        images: pictures, which stand before the text.
    """

    text: str
    images: tuple[ImageSource, ...] = ()


@dataclasses.dataclass(frozen=True)
class EnvironmentStep:
    """What B answers led to.

    Attributes:
        observations: [B] what is seen now; of games that are over nothing is read.
        rewards: float [B] of this step alone; 0 of games that were over before it.
        done: bool [B], whether a game is over.
        parts: name -> float [B], figures of the game so far, which are logged apart from the reward.
    """

    observations: Sequence[Observation]
    rewards: np.ndarray
    done: np.ndarray
    parts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Environment(Protocol):
    """B games side by side. A recipe holds environments, so each is a frozen dataclass of plain values.

    Games are functions of their rows, seeds and answers alone: where a run has several processes, each plays all.
    """

    @property
    def turns(self) -> int:
        """Most answers in a game; one that is not over after so many ends there."""
        ...

    def reset(self, examples: Sequence[Example], seeds: UInt32[np.ndarray, " B"]) -> Any:
        """The state of B games, before any answer.

        Args:
            examples: [B] rows; their prompts are what is seen first.
            seeds: [B] of whatever is random in a game.
        """
        ...

    def step(self, state: Any, answers: Sequence[str]) -> tuple[Any, EnvironmentStep]:
        """Takes one answer of each game; the state that was given stays as it is.

        Args:
            state: from `reset` or `step`.
            answers: [B] texts without special tokens; those of games that are over are ignored.
        """
        ...


def check_step(step: Any, name: str, games: int) -> EnvironmentStep:
    """`step`, if it is one of so many games.

    Raises:
        RewardError: it is not; names the environment, what was found and what was expected.
    """
    if not isinstance(step, EnvironmentStep):
        raise RewardError(f"Environment {name}: step gave {type(step).__name__}, expected (state, EnvironmentStep).")
    rewards, done = np.asarray(step.rewards, np.float64), np.asarray(step.done)
    shapes = {
        "observations": (len(step.observations),),
        "rewards": rewards.shape,
        "done": done.shape,
        **{f"parts[{part!r}]": np.shape(values) for part, values in step.parts.items()},
    }
    for field, shape in shapes.items():
        if shape != (games,):
            raise RewardError(
                f"Environment {name}: EnvironmentStep.{field} has the shape {list(shape)}, expected [{games}], one of "
                "each game."
            )
    if done.dtype != bool:
        raise RewardError(f"Environment {name}: EnvironmentStep.done is of {done.dtype}, expected bool.")
    if not np.isfinite(rewards).all():
        game = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise RewardError(f"Environment {name}: game {game} has the reward {rewards[game]}, expected a finite number.")
    return step
