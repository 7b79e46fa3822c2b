"""How a judge is reached, asked, read and paid for: plain values, a part of a recipe."""

import dataclasses
import json
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from lam_jax.errors import BadSettingError
from lam_jax.rewards.replies import Match

LONGEST_TIMEOUT_S = 1_000_000  # sockets and timers refuse much more, and "inf"
SECRET = re.compile(r"auth|key|token|secret|password|cookie|credential|signature|^sig$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """How the judge is reached, asked and read.

    What a reply depends on besides the messages (model, temperature, max_tokens, seed, extra_body) keys the cache; of
    the rest, `OPERATION` names what a run may change when it goes on.

    Attributes:
        base_url: of the endpoint, ending in /v1.
        model: its name there.
        api_key_env: environment variable with the key; servers of one's own need none.
        temperature: of the judge; None: not sent, for models that refuse it.
        max_tokens: of its reply, thoughts included.
        timeout_s: seconds for one HTTP call, from its start to the last byte.
        max_retries: further tries of a call that the server refused for now or that broke off, with growing pauses.
        attempts: tries at getting a reply that can be read; a further one shows the judge what was wrong.
        concurrency: calls under way at once, of a process.
        order: `balanced` shows the reference first for about half of the answers, chosen by (row, sample);
            `answer_first` always shows the answer first.
        integers_only: a score such as 8.5 fails the call.
        match: how a reply's scores find their dimensions: by name, or in the order asked for.
        form: of the prompt: answers between marked lines, or under plain headings as the released code has them.
        token_limit: the request's name for `max_tokens`.
        system_role: role of the message that says who the judge is; "none": it begins the user's message.
        seed: sent along; None: not sent.
        headers: further ones; a value `$NAME` is taken from that environment variable.
        extra_body: further entries of the request, such as {"chat_template_kwargs": {"enable_thinking": false}}.
        requests_per_minute, tokens_per_minute: of a process; None: no limit.
        max_calls, max_total_tokens: budget of a run, those of earlier starts included; when it is used up the run
            stops. None: no limit.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    max_tokens: int = 2048
    timeout_s: float = 120.0
    max_retries: int = 4
    attempts: int = 2
    concurrency: int = 16
    order: Literal["balanced", "answer_first"] = "balanced"
    integers_only: bool = False
    match: Match = "name"
    form: Literal["marked", "plain"] = "marked"
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    system_role: Literal["system", "developer", "none"] = "system"
    seed: int | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra_body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_calls: int | None = None
    max_total_tokens: int | None = None

    def __post_init__(self):
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url is {self.base_url!r}, expected an address such as http://localhost:8000/v1")
        self._refuse_secrets()
        for field, least in (("max_retries", 0), ("attempts", 1), ("concurrency", 1), ("max_tokens", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}, expected at least {least}")
        for field in ("requests_per_minute", "tokens_per_minute", "max_calls", "max_total_tokens"):
            if (value := getattr(self, field)) is not None and not value > 0:
                raise ValueError(f"{field} is {value}, expected more than 0, or None for no limit")
        if not 0 < self.timeout_s <= LONGEST_TIMEOUT_S:
            raise ValueError(
                f"timeout_s is {self.timeout_s}, expected more than 0 seconds and at most {LONGEST_TIMEOUT_S:,}"
            )
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}, expected 0 or more, or None to send none")
        if taken := sorted(self.extra_body.keys() & {"model", "messages", "stream", "n", self.token_limit}):
            raise ValueError(f"extra_body: found {taken}, which the client sets itself")

    def _refuse_secrets(self) -> None:
        """A recipe is written to config.json, so it holds names of variables and no keys."""
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or any(SECRET.search(name) for name, _ in parse_qsl(parts.query)):
            raise ValueError(
                "base_url holds a user, a password or a key, which would be written to config.json; put the key into "
                "an environment variable and name it in api_key_env, or in headers as $NAME"
            )
        for name, value in self.headers.items():
            if SECRET.search(name) and not value.startswith("$"):
                raise ValueError(
                    f"headers: {name!r} looks like a key, which would be written to config.json; put it into an "
                    f"environment variable and give its name: {{{name!r}: '$NAME'}}"
                )

    def official(self) -> "JudgeConfig":
        """As the released code, as far as it is known (docs/divergence.md): see each field for what that means."""
        return dataclasses.replace(
            self, order="answer_first", integers_only=True, attempts=1, match="order", form="plain"
        )

    @property
    def url(self) -> str:
        """Where requests go."""
        address, question, query = self.base_url.partition("?")
        return f"{address.rstrip('/')}/chat/completions{question}{query}"

    def body(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A request: what its reply depends on, and nothing else; a content is a text or a list of parts."""
        first, *rest = map(dict, messages)
        if first["role"] == "system" and self.system_role == "none" and rest:
            said, content = first["content"], rest.pop(0)["content"]
            whole = f"{said}\n\n{content}" if isinstance(content, str) else [{"type": "text", "text": said}, *content]
            first = {"role": "user", "content": whole}
        elif first["role"] == "system":
            first["role"] = self.system_role
        found: dict[str, Any] = {"model": self.model, "messages": [first, *rest], self.token_limit: self.max_tokens}
        if self.temperature is not None:
            found["temperature"] = self.temperature
        if self.seed is not None:
            found["seed"] = self.seed
        return found | dict(self.extra_body)

    def request_headers(self) -> dict[str, str]:
        """Headers of a request, keys included.

        Raises:
            BadSettingError: an environment variable that a header names is not set.
        """
        found = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "lam_jax"}
        if key := os.environ.get(self.api_key_env):
            found["Authorization"] = f"Bearer {key.strip()}"
        for name, value in self.headers.items():
            if value.startswith("$"):
                if value[1:] not in os.environ:
                    raise BadSettingError(f"Judge: header {name!r} takes its value from {value}, which is not set.")
                value = os.environ[value[1:]]
            found[name] = value.strip()
        return found

    def secrets(self) -> list[str]:
        """Values that must not be shown or written."""
        variables = [self.api_key_env, *(v[1:] for v in self.headers.values() if v.startswith("$"))]
        return [value for name in variables if len(value := os.environ.get(name, "").strip()) >= 4]


# What no score depends on: a run goes on when one of them has changed.
OPERATION = (
    "base_url",
    "api_key_env",
    "timeout_s",
    "max_retries",
    "concurrency",
    "headers",
    "requests_per_minute",
    "tokens_per_minute",
    "max_calls",
    "max_total_tokens",
)
_PLACE = re.compile(rf"^recipe\..*\bjudge\.(?:{'|'.join(OPERATION)})\b")


def is_of_operation(place: str) -> bool:
    """Whether a place in a run's identity (`recipe.tasks[0].reward.judge.timeout_s`, say) is one of `OPERATION`."""
    return _PLACE.match(place) is not None


def judge_config(base_url: str, model: str, settings: Sequence[str] = ()) -> JudgeConfig:
    """A judge from flags.

    Args:
        base_url: of the endpoint, ending in /v1.
        model: its name there.
        settings: `NAME=VALUE` of other fields of `JudgeConfig`; "none" for no value, JSON for mappings.

    Raises:
        BadSettingError: an unknown name, or a value that the field cannot have.
    """
    hints = typing.get_type_hints(JudgeConfig)
    known = [f.name for f in dataclasses.fields(JudgeConfig) if f.name not in ("base_url", "model")]
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in known:
            raise BadSettingError(f"Judge setting {setting!r}: expected NAME=VALUE with one of {', '.join(known)}.")
        try:
            found[name] = _value(text, hints[name])
        except ValueError as error:
            raise BadSettingError(f"Judge setting {setting!r}: {error}.") from error
    try:
        return JudgeConfig(base_url, model, **found)
    except ValueError as error:
        raise BadSettingError(f"Judge: {error}.") from error


def _value(text: str, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if text.lower() == "none":
            return None
        return _value(text, next(kind for kind in arguments if kind is not type(None)))
    if origin is Literal:
        if text not in arguments:
            raise ValueError(f"expected one of {', '.join(arguments)}")
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("expected true or false")
        return text.lower() == "true"
    if hint in (int, float):
        return hint(text)
    if hint is str:
        return text
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected a JSON object ({error})") from error
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value
