"""What is kept of a conversation: turns, what their codes were held to, and both as JSON values."""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lam_jax.errors import LamJaxError
from lam_jax.evaluation.generate import Answer
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.values import decode, encode


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
            if not np.isfinite(value):
                raise ChatError(f"The bias of code {code} is {value}, expected a number; forbid it instead.")
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


def turn_as_json(turn: Turn) -> dict[str, Any]:
    """JSON values of a turn, pictures included."""
    values = {
        "question": turn.question,
        "images": [base64.b64encode(image).decode("ascii") for image in turn.images],
        "stopped": turn.stopped,
        "seed": turn.seed,
        "sampling": encode(turn.sampling, "sampling"),
        "bias": [[code, value] for code, value in turn.controls.bias.items()],
        "forbidden": list(turn.controls.forbidden),
        "held": turn.controls.held,
        "prefix": list(turn.prefix),
    }
    return values | {"answer": dataclasses.asdict(turn.answer)}


def turn_from_json(values: dict[str, Any]) -> Turn:
    """The turn of such values.

    Raises:
        ValueError, KeyError, TypeError, ValueFormError: they are others.
    """
    held = None if values["held"] is None else tuple(values["held"])
    controls = Controls({int(c): float(v) for c, v in values["bias"]}, tuple(values["forbidden"]), held)
    images = tuple(base64.b64decode(image) for image in values["images"])
    answer, sampling = Answer(**values["answer"]), decode(values["sampling"], "sampling")
    drawn = (values["seed"], sampling, controls, tuple(values["prefix"]))
    return Turn(values["question"], images, answer, values["stopped"], *drawn)
