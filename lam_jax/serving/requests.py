"""What a client asks, read from JSON: everything that is not understood is refused, nothing is passed over."""

import dataclasses
import json
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from lam_jax.agents.chat_turns import MOST_BIAS
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.data.schemas import Example, describe
from lam_jax.serving.messages import read_messages
from lam_jax.serving.settings import Refusal, ServeSettings

MOST_STOPS, MOST_STOP = 16, 256
COLDEST = 1e-3  # temperatures below overflow logits
# Fields of the OpenAI API that would change the answer in a way that is not there: only values that ask for nothing.
_WITHOUT_EFFECT: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), "the agent calls no tools"),
    "tool_choice": (("none",), "the agent calls no tools"),
    "parallel_tool_calls": ((True, False), "the agent calls no tools"),
    "functions": (([],), "the agent calls no functions"),
    "function_call": (("none",), "the agent calls no functions"),
    "response_format": (({"type": "text"},), "answers are plain text; nothing holds them to a format"),
    "presence_penalty": ((0, 0.0), "there is none; the agent's own repetition penalty is part of it"),
    "frequency_penalty": ((0, 0.0), "there is none; the agent's own repetition penalty is part of it"),
    "top_logprobs": ((0,), "other actions than the one that was drawn are not scored"),
    "modalities": ((["text"],), "answers are text"),
    "store": ((False,), "nothing is stored"),
    "service_tier": (("auto", "default"), "there is one"),
}
_IGNORED = ("user", "safety_identifier")  # who asks; has no effect
_FIELDS = (
    *("model", "messages", "n", "seed", "stop", "logprobs", "temperature", "top_p", "max_tokens"),
    *("max_completion_tokens", "stream", "stream_options", "action_bias", "logit_bias"),
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request that can be answered.

    Attributes:
        example: its chat and pictures.
        samples: answers to it.
        seed: of the draws, as `LoadedAgent.generate` takes it.
        stops: texts before which an answer ends.
        temperature, top_p, most: as drawn, and at most how many tokens.
        bias: float32 [A] on the logits of actions, or None.
        logprobs: whether log-probabilities are given.
        stream, usage: whether the answer comes piece by piece, and then with a count of tokens at the end.
    """

    example: Example
    samples: int
    seed: int
    stops: tuple[str, ...]
    temperature: float
    top_p: float
    most: int
    bias: np.ndarray | None
    logprobs: bool
    stream: bool
    usage: bool


class RequestReader:
    """Reads requests to one agent.

    Args:
        agent: who answers.
        settings: what is allowed.
        name: of the agent.
    """

    def __init__(self, agent: LoadedAgent, settings: ServeSettings, name: str):
        self.settings, self.name = settings, name
        self.sampling = agent.settings.sampling
        self.most = settings.length or agent.settings.answer_length
        coded = agent.settings.action_space.coded
        self.codes: int | None = agent.agent.latent.config.codes if coded else None
        self.tokens: int = agent.agent.backbone.config.text.vocab_size

    def __call__(self, body: bytes) -> Asked:
        """The request of a body.

        Raises:
            Refusal: it cannot be answered; says why.
        """
        values = _object(body)
        values = {key: value for key, value in values.items() if value is not None}
        for key, value in values.items():
            if key in _WITHOUT_EFFECT:
                allowed, why = _WITHOUT_EFFECT[key]
                if not any(type(value) is type(one) and value == one for one in allowed):
                    raise Refusal(
                        400, f"{key}: found {describe(value)}; {why}. Leave it out.", key, "unsupported_value"
                    )
            elif key not in _FIELDS and key not in _IGNORED:
                known = ", ".join(sorted(_FIELDS))
                raise Refusal(
                    400, f"{_short(key)}: no field of this server. It reads {known}.", _short(key), "unknown_field"
                )
        model = values.get("model")
        if model != self.name:
            found = "no model" if model is None else f"the model {_short(str(model))!r}"
            raise Refusal(404, f"model: found {found}; this server has {self.name!r}.", "model", "model_not_found")
        if "messages" not in values:
            raise Refusal(400, "messages: found none; expected a list of messages.", "messages", "missing_field")
        stream = _flag(values, "stream")
        options = values.get("stream_options", {})
        if not isinstance(options, dict) or set(options) - {"include_usage"}:
            raise Refusal(400, "stream_options: expected an object with include_usage alone.", "stream_options")
        if options and not stream:
            raise Refusal(400, "stream_options: found without stream; expected stream true.", "stream_options")
        seed = values.get("seed")
        return Asked(
            example=read_messages(values["messages"], self.settings),
            samples=_whole(values, "n", 1, 1, self.settings.samples),
            seed=secrets.randbits(31) if seed is None else _whole(values, "seed", 0, 0, 2**63 - 1),
            stops=_stops(values.get("stop")),
            temperature=self._temperature(values),
            top_p=self._top_p(values),
            most=self._most(values),
            bias=self._bias(values),
            logprobs=_flag(values, "logprobs"),
            stream=stream,
            usage=_flag(options, "include_usage"),
        )

    def _temperature(self, values: dict[str, Any]) -> float:
        temperature = _number(values, "temperature", self.sampling.temperature, 0.0, 100.0)
        if 0 < temperature < COLDEST:
            found, expected = f"found {temperature:g}", f"expected 0 (greedy), or {COLDEST:g} to 100"
            raise Refusal(400, f"temperature: {found}, {expected}.", "temperature", "invalid_value")
        return temperature

    def _top_p(self, values: dict[str, Any]) -> float:
        top_p = _number(values, "top_p", self.sampling.top_p, 0.0, 1.0)
        if top_p == 0:
            raise Refusal(400, "top_p: found 0, expected more than 0 and at most 1.", "top_p", "invalid_value")
        return top_p

    def _most(self, values: dict[str, Any]) -> int:
        both = [name for name in ("max_tokens", "max_completion_tokens") if name in values]
        if len(both) == 2 and values[both[0]] != values[both[1]]:
            raise Refusal(400, "max_tokens and max_completion_tokens differ; name one of them.", both[1])
        return _whole(values, both[0] if both else "max_tokens", self.most, 1, self.most)

    def _bias(self, values: dict[str, Any]) -> np.ndarray | None:
        """Of codes, or in the token space of tokens."""
        wanted, other = ("action_bias", "logit_bias") if self.codes else ("logit_bias", "action_bias")
        if values.get(other):
            what = (
                "codes, not tokens, are drawn: use action_bias, {code: bias}"
                if self.codes
                else ("this agent acts in the token space and has no codes: use logit_bias, {token: bias}")
            )
            raise Refusal(400, f"{other}: {what}.", other, "unsupported_value")
        found = values.get(wanted)
        if not found:
            if found not in (None, {}):
                raise Refusal(400, f"{wanted}: found {describe(found)}, expected an object.", wanted)
            return None
        if not isinstance(found, Mapping):
            raise Refusal(400, f"{wanted}: found {describe(found)}, expected an object {{number: bias}}.", wanted)
        count = self.codes or self.tokens
        bias = np.zeros(count, np.float32)
        for key, value in found.items():
            number = int(key) if key.isdecimal() and key.isascii() and len(key) < 10 else -1
            if not 0 <= number < count:
                what = "code" if self.codes else "token"
                raise Refusal(
                    400, f"{wanted}: {_short(key)!r} is no {what}; expected 0 to {count - 1}.", wanted, "invalid_value"
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_BIAS:
                expected = f"a number from {-MOST_BIAS:g} to {MOST_BIAS:g}"
                raise Refusal(
                    400, f"{wanted}: {key} has {describe(value)}, expected {expected}.", wanted, "invalid_value"
                )
            bias[number] = value
        return bias


def _object(body: bytes) -> dict[str, Any]:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        values = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise Refusal(400, f"The body is no JSON: {why}.", code="invalid_json") from error
    if not isinstance(values, dict):
        raise Refusal(400, f"The body is {describe(values)}, expected an object.", code="invalid_json")
    return values


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flag(values: Mapping[str, Any], key: str) -> bool:
    value = values.get(key, False)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise Refusal(400, f"{key}: found {describe(value)}, expected true or false.", key, "invalid_type")
    return value


def _number(values: dict[str, Any], key: str, default: float, least: float, most: float) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(400, f"{key}: found {describe(value)}, expected a number.", key, "invalid_type")
    if not least <= value <= most:
        raise Refusal(400, f"{key}: found {describe(value)}, expected {least:g} to {most:g}.", key, "invalid_value")
    return float(value)


def _whole(values: dict[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refusal(400, f"{key}: found {describe(value)}, expected a whole number.", key, "invalid_type")
    if not least <= value <= most:
        raise Refusal(400, f"{key}: found {describe(value)}, expected {least} to {most}.", key, "invalid_value")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and 0 < len(stop) <= MOST_STOP for stop in stops):
        expected = f"a text of 1 to {MOST_STOP} characters, or a list of such"
        raise Refusal(400, f"stop: found {describe(value)}, expected {expected}.", "stop", "invalid_value")
    if len(stops) > MOST_STOPS:
        raise Refusal(400, f"stop: found {len(stops)} texts, expected at most {MOST_STOPS}.", "stop", "invalid_value")
    return tuple(stops)
