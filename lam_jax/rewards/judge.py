"""A judge behind an OpenAI-compatible endpoint (extra `judge`): concurrent calls that may fail one by one."""

import dataclasses
import functools
import os
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from lam_jax.data.schemas import Example
from lam_jax.rewards.dimensions import JudgeRubric
from lam_jax.rewards.judge_prompt import JudgeRequest, judge_messages
from lam_jax.rewards.reviews import parse_reply
from lam_jax.rewards.reward import Verdicts
from lam_jax.rewards.verdict import Verdict


class JudgeError(RuntimeError):
    """The endpoint refuses every call (key, address or model name), so going on would only collect failures."""


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """How the judge is reached and read.

    Attributes:
        base_url: of the endpoint, ending in /v1.
        model: its name there.
        api_key_env: environment variable with the key; servers of one's own need none.
        temperature: of the judge.
        max_tokens: of its reply.
        timeout_s: seconds for one HTTP call.
        max_retries: further tries of a call that the server refused or that broke off, with growing pauses.
        attempts: tries at getting a reply that can be read.
        concurrency: calls under way at once.
        order: `balanced` shows the reference first for about half of the answers, chosen by (row, sample);
            `answer_first` always shows the answer first.
        integers_only: a score such as 8.5 fails the call.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float = 0.0
    max_tokens: int = 2048
    timeout_s: float = 120.0
    max_retries: int = 4
    attempts: int = 2
    concurrency: int = 16
    order: Literal["balanced", "answer_first"] = "balanced"
    integers_only: bool = False

    def __post_init__(self):
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url is {self.base_url!r}, expected an address such as http://localhost:8000/v1")
        for field, least in (("max_retries", 0), ("attempts", 1), ("concurrency", 1), ("max_tokens", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}, expected at least {least}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s is {self.timeout_s}, expected more than 0 seconds")

    def official(self) -> "JudgeConfig":
        """As the released code: the answer always comes first, scores are integers, an unreadable reply is final."""
        return dataclasses.replace(self, order="answer_first", integers_only=True, attempts=1)


class Judge:
    """Client of one judge. Safe to share; use as a context manager or call `close`.

    Raises:
        ImportError: the extra `judge` is not installed.
    """

    def __init__(self, config: JudgeConfig):
        try:
            import openai
        except ImportError as error:
            raise ImportError("the judge needs the package openai: pip install 'lam_jax[judge]'") from error
        self.config = config
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=os.environ.get(config.api_key_env) or "none",
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def score(self, requests: Sequence[JudgeRequest]) -> list[Verdict]:
        """Verdicts in the order of the requests; a call that failed for good has `ok` False and its reason.

        Raises:
            JudgeError: the endpoint rejects the key or does not know the address or model.
        """
        if not requests:
            return []
        with ThreadPoolExecutor(min(self.config.concurrency, len(requests))) as pool:
            calls = [pool.submit(self._score_one, request) for request in requests]
            try:
                return [call.result() for call in calls]
            except JudgeError:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _score_one(self, request: JudgeRequest) -> Verdict:
        swapped = self.config.order == "balanced" and shows_reference_first(request.row, request.sample)
        messages = judge_messages(request, swapped)
        names = list(request.rubric.dimensions)
        verdict = Verdict(error="not called")
        for _ in range(self.config.attempts):
            try:
                reply = self._complete(messages)
            except self._openai.APIError as error:  # the client has already retried what can be retried
                return Verdict(error=f"{type(error).__name__}: {error}")
            verdict = parse_reply(reply, names, swapped, self.config.integers_only)
            if verdict.ok:
                break
        return verdict

    def _complete(self, messages: list[dict[str, str]]) -> str:
        """The judge's reply, empty if it has none."""
        openai = self._openai
        try:
            response = self._client.chat.completions.create(
                model=self.config.model,
                messages=messages,  # pyright: ignore[reportArgumentType]
                temperature=self.config.temperature,
                max_tokens=self.config.max_tokens,
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise JudgeError(
                f"{self.config.base_url} refuses model {self.config.model!r}: {error}; check the address, the model "
                f"name and the key in ${self.config.api_key_env}"
            ) from error
        return (response.choices[0].message.content or "") if response.choices else ""


@dataclasses.dataclass(frozen=True)
class JudgeReward:
    """A judge as a reward: of training, of evaluation, or of both."""

    judge: JudgeConfig
    rubric: JudgeRubric

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts [N][G]; a call that failed for good has `ok` False and its reason.

        Raises:
            JudgeError: the endpoint rejects the key or does not know the address or model.
            ImportError: the extra `judge` is not installed.
        """
        requests = [
            JudgeRequest(e.id, sample, self.rubric, conversation(e), answer, e.reference, e.facts or {})
            for e, group in zip(examples, answers, strict=True)
            for sample, answer in zip(samples, group, strict=True)
        ]
        verdicts = iter(_client(self.judge).score(requests))
        return [[next(verdicts) for _ in group] for group in answers]


def conversation(example: Example) -> list[dict[str, str]]:
    """The messages before the answer."""
    return [{"role": message["role"], "content": message["content"]} for message in example.prompt]


@functools.cache
def _client(config: JudgeConfig) -> Judge:
    """One client a process and judge: its connections are kept."""
    return Judge(config)


def shows_reference_first(row: str, sample: int) -> bool:
    """Order of an answer under `balanced`: a function of its key, so that a repeated run asks the same."""
    return zlib.crc32(f"{row}/{sample}".encode()) % 2 == 1


def warn_same_judge(reward_judge: str, evaluation_judge: str, reference_writer: str | None = None) -> None:
    """Warn when one model has several of the roles: it would be rewarding, examining and setting its own taste."""
    roles = {
        "reward judge": reward_judge,
        "evaluation judge": evaluation_judge,
        "writer of the references": reference_writer,
    }
    by_model: dict[str, list[str]] = {}
    for role, model in roles.items():
        if model is not None:
            by_model.setdefault(model.strip().lower(), []).append(role)
    for names in by_model.values():
        if len(names) > 1:
            model = roles[names[0]]
            warnings.warn(
                f"{' and '.join(names)} are the same model ({model}): scores may reflect its taste rather "
                "than quality; use different models",
                UserWarning,
                stacklevel=2,
            )
