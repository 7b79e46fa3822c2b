"""What is kept of a conversation: turns, what their codes were held to, and both as JSON values."""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from lam_jax.errors import LamJaxError
from lam_jax.evaluation.generate import Answer
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.values import decode, encode

MOST_BIAS = 1e6  # far above all logits, and far below what forbids a code


class ChatError(LamJaxError):
    """Something that this conversation cannot do; the message says what it can."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class Controls:
    """What an answer's codes are held to.

    Attributes:
        bias: added to the logits of codes, before temperature and truncation.
        forbidden: codes that are never taken.
        held: (code, tokens): the code of the first so many tokens; None tokens: of all.
    """

    bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    forbidden: tuple[int, ...] = ()
    held: tuple[int, int | None] | None = None

    def __bool__(self) -> bool:
        return bool(self.bias or self.forbidden or self.held)

    def check(self, codes: int) -> None:
        """Refuses numbers that are no codes.

        Raises:
            ChatError: such a number, a bias that is no number, no code is left, or a count below 1.
        """
        for code in (*self.bias, *self.forbidden, *(self.held or ())[:1]):
            if not 0 <= code < codes:
                raise ChatError(f"{code} is no code of this agent; expected a number from 0 to {codes - 1}.")
        for code, value in self.bias.items():
            if not abs(value) <= MOST_BIAS:
                raise ChatError(f"The bias of code {code} is {value}, expected {-MOST_BIAS:g} to {MOST_BIAS:g}.")
        if len(set(self.forbidden)) >= codes:
            raise ChatError("Every code would be forbidden; leave one.")
        if self.held and self.held[1] is not None and self.held[1] < 1:
            raise ChatError(f"A code is held for {self.held[1]} tokens, expected at least 1.")


@dataclasses.dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: the user's text.
        images: encoded pictures that stand before it.
        answer: as it was drawn; `actions` holds the code behind each token, in the token space the token itself.
        stopped: it was ended by whoever listened.
        seed, sampling, controls, prefix: what it was drawn with; the first actions were set to `prefix`.
    """

    question: str
    images: tuple[bytes, ...]
    answer: Answer
    stopped: bool
    seed: int
    sampling: SamplingConfig
    controls: Controls
    prefix: tuple[int, ...] = ()


def state_as_json(seed: int, sampling: SamplingConfig, controls: Controls) -> dict[str, Any]:
    """JSON values of what answers are drawn with."""
    return {
        "seed": seed,
        "sampling": encode(sampling, "sampling"),
        "bias": [[code, value] for code, value in controls.bias.items()],
        "forbidden": list(controls.forbidden),
        "held": controls.held,
    }


def state_from_json(values: dict[str, Any]) -> tuple[int, SamplingConfig, Controls]:
    """What answers are drawn with, of such values.

    Raises:
        ValueError, KeyError, TypeError, ValueFormError: they are others.
    """
    held = None if values["held"] is None else (int(values["held"][0]), values["held"][1])
    controls = Controls({int(c): float(v) for c, v in values["bias"]}, tuple(values["forbidden"]), held)
    return int(values["seed"]), decode(values["sampling"], "sampling"), controls


def turn_as_json(turn: Turn) -> dict[str, Any]:
    """JSON values of a turn, pictures included."""
    return {
        "question": turn.question,
        "images": [base64.b64encode(image).decode("ascii") for image in turn.images],
        "stopped": turn.stopped,
        **state_as_json(turn.seed, turn.sampling, turn.controls),
        "prefix": list(turn.prefix),
        "answer": dataclasses.asdict(turn.answer),
    }


def turn_from_json(values: dict[str, Any]) -> Turn:
    """The turn of such values; errors as of `state_from_json`."""
    seed, sampling, controls = state_from_json(values)
    images = tuple(base64.b64decode(image) for image in values["images"])
    answer, prefix = Answer(**values["answer"]), tuple(values["prefix"])
    return Turn(values["question"], images, answer, values["stopped"], seed, sampling, controls, prefix)
