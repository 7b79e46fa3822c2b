"""A task whose prompts begin games: the agent answers turn by turn, and an environment answers back."""

import dataclasses
from collections.abc import Sequence

from lam_jax.environments.environment import Environment
from lam_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class EpisodeTask(Task):
    """A task that is played. Its rows begin games; those of stage 5 and of validation show whole ones.

    Every answer of a game gets its return as the reward; scores are returns too.

    Attributes:
        environment: what is played; required.
        reward: of `Task`: scores one answer to a row's prompt alone, where nothing is played (`FirstStepReward`).
        prompt_lengths: of `Task`: one bucket, which holds the conversation before a game's last answer.
        answer_length: of `Task`: most tokens of one answer.
    """

    environment: Environment | None = None

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.environment, Environment):
            raise ValueError(
                f"EpisodeTask {self.name!r}: environment is {self.environment!r}, expected one that is played: with "
                "turns, reset and step."
            )
        if self.environment.turns < 1:
            raise ValueError(
                f"EpisodeTask {self.name!r}: its environment has {self.environment.turns} turns, expected at least 1."
            )
        if len(self.prompt_lengths) != 1:
            raise ValueError(
                f"EpisodeTask {self.name!r}: prompt_lengths is {self.prompt_lengths}, expected one length, which holds "
                "the conversation before the last answer: all turns of a game are one batch."
            )
        if self.evaluation_reward is not None:
            raise ValueError(
                f"EpisodeTask {self.name!r}: evaluation_reward is set, but games are scored by their environment; "
                "leave it out."
            )

    @property
    def game(self) -> Environment:
        """The environment."""
        assert self.environment is not None, "refused when the task was made"
        return self.environment


def turns_of(task: Task) -> int:
    """Most answers to a prompt of a task."""
    return task.game.turns if isinstance(task, EpisodeTask) else 1


def pictures_of(tasks: Sequence[Task], source: str) -> int:
    """Most pictures of a row of a source, a task or a corpus: one, or one for each turn of a game."""
    return max((turns_of(task) for task in tasks if task.name == source), default=1)
