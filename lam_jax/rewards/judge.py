"""A judge as a reward, in training and in evaluation (method.md section 4)."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from lam_jax.data.schemas import Example
from lam_jax.rewards.dimensions import JudgeRubric
from lam_jax.rewards.judge_client import Judge, JudgeBudgetError, JudgeError, JudgeUsage, shows_reference_first
from lam_jax.rewards.judge_config import JudgeConfig
from lam_jax.rewards.judge_prompt import JudgeRequest
from lam_jax.rewards.reward import Verdicts
from lam_jax.rewards.verdict import Verdict
from lam_jax.values import fingerprint

__all__ = [
    "Judge",
    "JudgeBudgetError",
    "JudgeConfig",
    "JudgeError",
    "JudgeReward",
    "JudgeUsage",
    "shows_reference_first",
    "warn_same_judge",
]

# What to do about a judge of which no call can be used, by the kind of the failure.
REMEDIES = {
    "connection": "Check the address, and that the server runs and can be reached from this machine.",
    "timeout": "Check the server, or set a larger timeout_s.",
    "html": "The address leads to a web page: an endpoint's ends in /v1.",
    "broken_json": "Check that the address is that of a chat-completions endpoint.",
    "http_405": "Check the address: it should end in /v1.",
    "out_of_range": "The judge does not keep to the scale; take a stronger model.",
    "http_402": "The account has no credit left.",
    "quota": "The account's quota is used up.",
    "rate_limit": "Set requests_per_minute or tokens_per_minute to what the account may, or a lower concurrency.",
    "truncated": "Set a larger max_tokens; a judge that thinks needs several thousand.",
    "unfinished_thinking": "Set a larger max_tokens, or switch thinking off "
    '(extra_body={"chat_template_kwargs": {"enable_thinking": false}} with vLLM).',
    "no_finish_reason": "The server does not say whether a reply is whole; take one that sends finish_reason.",
    "missing_dimension": "The judge does not keep to the form asked for; take a stronger model.",
    "unparsable": "The judge does not keep to the form asked for; take a stronger model.",
    "empty": "Check the model; one that only thinks needs a larger max_tokens.",
}


@dataclasses.dataclass(frozen=True)
class JudgeReward:
    """A judge as a reward: of training, of evaluation, or of both."""

    judge: JudgeConfig
    rubric: JudgeRubric

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts [N][G]; a call that failed for good has `ok` False, its reason and its kind.

        Raises:
            JudgeError: the endpoint rejects the key or does not know the address or model.
            JudgeBudgetError: the budget is used up.
        """
        requests = [
            self.request(e, sample, answer)
            for e, group in zip(examples, answers, strict=True)
            for sample, answer in zip(samples, group, strict=True)
        ]
        verdicts = iter(client_of(self.judge).score(requests))
        return [[next(verdicts) for _ in group] for group in answers]

    def request(self, example: Example, sample: int, answer: str) -> JudgeRequest:
        """What the judge is asked about an answer."""
        facts = example.facts or {}
        return JudgeRequest(example.id, sample, self.rubric, conversation(example), answer, example.reference, facts)

    @property
    def usage(self) -> JudgeUsage:
        """What this process spent on the judge so far."""
        return client_of(self.judge).usage


def conversation(example: Example) -> list[dict[str, str]]:
    """The messages before the answer."""
    return [{"role": message["role"], "content": message["content"]} for message in example.prompt]


def judges_of(reward: Any) -> list[JudgeReward]:
    """The judges in a reward: itself, or those that a `WeightedReward` adds up."""
    if isinstance(reward, JudgeReward):
        return [reward]
    return [judge for _, part, _ in getattr(reward, "rewards", ()) for judge in judges_of(part)]


def require_usable(reward: Any, verdicts: Sequence[Verdict], what: str) -> None:
    """Stops before a training in which no call of the judge could be used.

    Raises:
        JudgeError: the reward has a judge, and every verdict failed; says what to set.
    """
    judges = judges_of(reward)
    if not judges or not verdicts or any(verdict.ok for verdict in verdicts):
        return
    config, first = judges[0].judge, verdicts[0]
    remedy = REMEDIES.get(first.kind or "", "")
    raise JudgeError(
        f"{what}: the judge {config.model!r} at {config.base_url} gave no usable verdict in {len(verdicts)} calls "
        f"({first.kind}): {first.error}. {remedy} Try it with: lam-jax judge check --judge {config.base_url} "
        f"--judge-model {config.model}"
    )


def judge_metrics(reward: Any) -> dict[str, float]:
    """Calls, tokens and failures of the judges in a reward since the process began, by name; empty without a judge."""
    total: dict[str, float] = {}
    for judge in judges_of(reward):
        for name, value in judge.usage.metrics().items():
            total[name] = total.get(name, 0.0) + value
    return total


def usage_lines() -> list[str]:
    """What each judge of this process did so far, as sentences."""
    return [f"judge {judge.config.model}: {judge.usage}" for judge in _clients.values() if judge.usage.asked]


_clients: dict[str, Judge] = {}


def client_of(config: JudgeConfig) -> Judge:
    """The one client of a process and judge: limits and counts are shared."""
    return _clients.setdefault(fingerprint(config), Judge(config))


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
