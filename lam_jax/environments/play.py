"""Games under way: conversations that grow by a turn an answer, returns that add up.

Legend: B games.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, UInt32

from lam_jax.data.schemas import DataError, Example
from lam_jax.environments.environment import Environment, Observation, check_step
from lam_jax.rewards.verdict import Verdict


class Games:
    """B games of one environment, and the conversation of each.

    Args:
        environment: what is played.
        examples: [B] rows.
        seeds: [B] of what is random in each.

    Attributes:
        conversations: [B] prompts of the next answers; of a game that is over, that of its last answer.
        alive: [B] whether a game goes on.
        returns: [B] sums of the rewards so far.
        turns: [B] answers so far.
        answers: [B] texts of the answers so far.
    """

    def __init__(self, environment: Environment, examples: Sequence[Example], seeds: UInt32[np.ndarray, " B"]):
        self.environment = environment
        self.conversations: list[Example] = [begun(example) for example in examples]
        count = len(self.conversations)
        self.alive: Bool[np.ndarray, " B"] = np.ones(count, bool)
        self.returns: Float64[np.ndarray, " B"] = np.zeros(count)
        self.turns = np.zeros(count, np.int32)
        self.answers: list[list[str]] = [[] for _ in range(count)]
        self._parts: dict[str, np.ndarray] = {}
        self._state = environment.reset(self.conversations, seeds)

    @property
    def over(self) -> bool:
        """No game goes on."""
        return not self.alive.any()

    def answer(self, texts: Sequence[str]) -> None:
        """Takes an answer of each game that goes on; those of the others are ignored.

        Raises:
            RewardError: the environment gave something else than a step of B games.
        """
        name, count = type(self.environment).__name__, len(self.conversations)
        self._state, found = self.environment.step(self._state, texts)
        step = check_step(found, name, count)
        alive = self.alive
        self.returns = self.returns + np.where(alive, np.asarray(step.rewards, np.float64), 0.0)
        self.turns = self.turns + alive
        for part, values in step.parts.items():
            known = self._parts.get(part, np.zeros(count))
            self._parts[part] = np.where(alive, np.asarray(values, np.float64), known)
        goes_on = alive & ~np.asarray(step.done) & (self.turns < self.environment.turns)
        for game in np.flatnonzero(alive).tolist():
            self.answers[game].append(texts[game])
            if goes_on[game]:
                self.conversations[game] = continued(self.conversations[game], texts[game], step.observations[game])
        self.alive = goes_on

    def verdicts(self) -> list[Verdict]:
        """[B] the return of each game as its reward, with the named figures and the number of its answers."""
        return [
            Verdict(
                {"return": (float(self.returns[game]), 1.0)},
                parts={
                    **{name: float(values[game]) for name, values in self._parts.items()},
                    "turns": float(self.turns[game]),
                },
            )
            for game in range(len(self.returns))
        ]


def begun(example: Example) -> Example:
    """The conversation before the first answer: the row's turns and pictures up to its first user turn.

    A row that shows how to play holds a whole game, and the others just that.

    Raises:
        DataError: the row has no user turn.
    """
    users = [index for index, message in enumerate(example.messages) if message["role"] == "user"]
    if not users:
        raise DataError(example.where, "messages", "no user turn", "one that a game begins with", "Add it.")
    end = users[0] + 1
    kept = [number for number, (index, _) in enumerate(example.places) if index < end]
    return dataclasses.replace(
        example,
        messages=example.messages[:end],
        images=tuple(example.images[number] for number in kept),
        places=tuple(example.places[number] for number in kept),
    )


def continued(conversation: Example, answer: str, seen: Observation) -> Example:
    """A conversation with the agent's answer and the user turn that shows what came of it."""
    messages = (
        *conversation.messages,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": seen.text},
    )
    return dataclasses.replace(
        conversation,
        messages=messages,
        images=(*conversation.images, *seen.images),
        places=(*conversation.places, *((len(messages) - 1, 0),) * len(seen.images)),
    )


def demonstrated(conversation: Example, answer: str) -> Example:
    """A conversation that ends in an answer: a row of stage 5, every answer of which is learned."""
    return dataclasses.replace(
        conversation, messages=(*conversation.messages, {"role": "assistant", "content": answer})
    )
