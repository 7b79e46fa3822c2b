"""Client of a judge behind an OpenAI-compatible endpoint: concurrent calls that may fail one by one.

A call that fails for good becomes a verdict with its reason and kind; no score is made up.
"""

import collections
import dataclasses
import json
import random
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from lam_jax.errors import RewardError
from lam_jax.rewards import endpoint, judge_store
from lam_jax.rewards.endpoint import Reply, Usage, redacted
from lam_jax.rewards.judge_config import JudgeConfig
from lam_jax.rewards.judge_prompt import JudgeRequest, judge_messages, repair_messages
from lam_jax.rewards.judge_store import JudgeStore, Spent, key_of
from lam_jax.rewards.limits import RateLimit
from lam_jax.rewards.replies import parse_reply, without_thoughts
from lam_jax.rewards.verdict import Verdict

CHARACTERS_A_TOKEN = 4  # of English text, roughly
LONGEST_PAUSE_S = 120.0  # that an endpoint may ask for before a call counts as failed
# Failures after which the judge is asked again, as often as `attempts` says.
UNREAD = ("truncated", "empty", "unfinished_thinking", "no_finish_reason", "finish_reason", "unparsable")


class JudgeError(RewardError, RuntimeError):
    """The endpoint refuses every call (key, address or model name), so going on would only collect failures."""


class JudgeBudgetError(JudgeError):
    """The calls or tokens that a run may spend on its judge are used up."""


@dataclasses.dataclass(frozen=True)
class JudgeUsage:
    """What a client did since the process began.

    Attributes:
        calls: HTTP calls, failed ones and repetitions included.
        prompt, completion: tokens, as the endpoint counted them.
        cached: verdicts from replies that were kept.
        failed: verdicts without scores, by kind.
        seconds: of all calls together.
    """

    calls: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def asked(self) -> bool:
        """Whether there was anything to score."""
        return bool(self.calls or self.cached)

    def __str__(self) -> str:
        failed = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failed.items())) or "none"
        return (
            f"{self.calls:,} calls, {self.prompt:,} tokens in and {self.completion:,} out, {self.cached:,} verdicts "
            f"from kept replies, failed for good: {failed}"
        )

    def metrics(self) -> dict[str, float]:
        """As numbers by name."""
        failed = {f"judge_failed/{kind}": float(count) for kind, count in self.failed.items()}
        return {
            "judge_calls": float(self.calls),
            "judge_prompt_tokens": float(self.prompt),
            "judge_completion_tokens": float(self.completion),
            "judge_cached": float(self.cached),
        } | failed


class Judge:
    """Client of one judge; safe for several threads.

    Args:
        config: how it is reached and read.
        store: where replies are kept and calls logged; default: the one that is open, see `judge_store`.
    """

    def __init__(self, config: JudgeConfig, store: JudgeStore | None = None):
        self.config = config
        self._store = store
        self._lock = threading.Lock()
        self._limit = RateLimit(config.requests_per_minute, config.tokens_per_minute)
        self._slots = threading.BoundedSemaphore(config.concurrency)
        self._flights: dict[str, Future[str | Verdict]] = {}
        self._spent = Spent()
        self._cached, self._seconds = 0, 0.0
        self._failed: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Nothing: no connection outlives its call."""

    @property
    def usage(self) -> JudgeUsage:
        """What was spent so far."""
        with self._lock:
            spent = self._spent
            return JudgeUsage(
                spent.calls, spent.prompt, spent.completion, self._cached, dict(self._failed), self._seconds
            )

    def score(self, requests: Sequence[JudgeRequest]) -> list[Verdict]:
        """Verdicts in the order of the requests; a call that failed for good has `ok` False, its reason and its kind.

        Raises:
            JudgeError: the endpoint rejects the key or does not know the address or model.
            JudgeBudgetError: the budget is used up.
            JudgeStoreError: replies cannot be kept.
        """
        if not requests:
            return []
        stop = threading.Event()
        pool = ThreadPoolExecutor(min(self.config.concurrency, len(requests)), "judge")
        try:
            calls = [pool.submit(self._score_one, request, stop) for request in requests]
            return [call.result() for call in calls]
        finally:  # where one failed for good, or Ctrl-C: the others end with the call that they are in
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _score_one(self, request: JudgeRequest, stop: threading.Event) -> Verdict:
        config, store = self.config, self._store or judge_store.current()
        swapped = config.order == "balanced" and shows_reference_first(request.row, request.sample)
        messages = judge_messages(request, swapped, config.form)
        if store is None:
            outcome = self._ask(request, messages, None, "", swapped, stop)
        else:
            key = key_of(config.body(messages))
            kept = store.get(key)
            if kept is not None and (verdict := self._read(request, kept, swapped)).ok:
                with self._lock:
                    self._cached += 1
                return verdict
            outcome = self._ask_once(request, messages, store, key, swapped, stop)
        verdict = outcome if isinstance(outcome, Verdict) else self._read(request, outcome, swapped)
        if verdict.kind is not None:
            with self._lock:
                self._failed[verdict.kind] += 1
        return verdict

    def _read(self, request: JudgeRequest, reply: str, swapped: bool) -> Verdict:
        config = self.config
        return parse_reply(reply, list(request.rubric.dimensions), swapped, config.integers_only, config.match)

    def _ask_once(
        self,
        request: JudgeRequest,
        messages: list[dict[str, str]],
        store: JudgeStore,
        key: str,
        swapped: bool,
        stop: threading.Event,
    ) -> str | Verdict:
        """As `_ask`, but for equal requests that are under way together only once."""
        with self._lock:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leads:
            return flight.result()
        try:
            kept = store.get(key)  # another thread may have finished since the first look
            usable = kept is not None and self._read(request, kept, swapped).ok
            outcome = kept if usable and kept is not None else self._ask(request, messages, store, key, swapped, stop)
            flight.set_result(outcome)
            return outcome
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flights[key]

    def _ask(
        self,
        request: JudgeRequest,
        messages: list[dict[str, str]],
        store: JudgeStore | None,
        key: str,
        swapped: bool,
        stop: threading.Event,
    ) -> str | Verdict:
        """A reply that can be read, which is then kept; or a failed verdict."""
        config, names = self.config, list(request.rubric.dimensions)
        asked, verdict = messages, Verdict(error="not called", kind="stopped")
        for attempt in range(1, config.attempts + 1):
            record = {"key": key, "row": request.row, "sample": request.sample, "attempt": attempt}
            reply, milliseconds = self._complete(config.body(asked), record, store, stop)
            if reply.kind is None:
                verdict = self._read(request, reply.text, swapped)
            else:
                verdict = Verdict(error=reply.reason, kind=reply.kind)
            if verdict.ok and store is not None:
                store.put(key, reply.text, config.model)
            self._log(store, record, reply, milliseconds, verdict)
            if verdict.ok:
                return reply.text
            if reply.kind is not None and reply.kind not in UNREAD:
                break
            said = "" if verdict.kind == "unfinished_thinking" else _spoken(reply.text)
            asked = repair_messages(messages, said, str(verdict.error), names)
        return verdict

    def _complete(
        self, body: dict[str, Any], record: dict[str, Any], store: JudgeStore | None, stop: threading.Event
    ) -> tuple[Reply, int]:
        """The judge's reply and the milliseconds of its call, repeated while the endpoint refuses for now."""
        config = self.config
        asked = sum(len(message["content"]) for message in body["messages"]) // CHARACTERS_A_TOKEN
        for retry in range(config.max_retries + 1):
            reply, milliseconds = self._call(body, asked, store, stop)
            if reply.refused:
                self._log(store, record, reply, milliseconds, Verdict(error=reply.reason, kind=reply.kind))
                raise JudgeError(
                    f"{config.base_url} refuses model {config.model!r}: {reply.reason}; check the address, the model "
                    f"name and the key in ${config.api_key_env}"
                )
            pause = reply.wait_s if reply.wait_s is not None else _pause(retry)
            if not reply.again or retry == config.max_retries or pause > LONGEST_PAUSE_S:
                return reply, milliseconds
            self._log(store, record, reply, milliseconds, Verdict(error=reply.reason, kind=reply.kind))
            if reply.wait_s is not None and reply.kind == "rate_limit":
                self._limit.pause(pause)  # for every thread
                pause += random.uniform(0, min(1.0, pause))
            stop.wait(pause)
        raise AssertionError("the last try returns")

    def _call(
        self, body: dict[str, Any], asked: int, store: JudgeStore | None, stop: threading.Event
    ) -> tuple[Reply, int]:
        config = self.config
        with self._slots:
            self._limit.wait(asked + config.max_tokens, stop)
            if stop.is_set():
                return Reply(kind="stopped", reason="another call ended the scoring"), 0
            self._take_call(store)
            start = time.monotonic()
            reply = endpoint.call(config.url, config.request_headers(), body, config.timeout_s)
            seconds = time.monotonic() - start
        secrets = config.secrets()
        reply = dataclasses.replace(reply, reason=redacted(reply.reason, secrets))
        self._count(store, reply.usage, seconds)
        return reply, round(seconds * 1000)

    def _take_call(self, store: JudgeStore | None) -> None:
        """Counts a call, if the budget has room for it."""
        config = self.config
        judge = _account(config, store)
        with self._lock:
            spent = store.spent(judge) if store is not None and config.max_total_tokens is not None else self._spent
            if config.max_total_tokens is not None and spent.tokens >= config.max_total_tokens:
                raise _used_up(config, "max_total_tokens", f"{spent.tokens} tokens")
            if config.max_calls is not None:
                room = self._spent.calls < config.max_calls
                if not (room if store is None else store.take_call(judge, config.max_calls)):
                    raise _used_up(config, "max_calls", f"{config.max_calls} calls")
            elif store is not None:
                store.spend(judge, 1, Usage())
            self._spent = dataclasses.replace(self._spent, calls=self._spent.calls + 1)

    def _count(self, store: JudgeStore | None, usage: Usage, seconds: float) -> None:
        with self._lock:
            spent = self._spent
            self._spent = Spent(spent.calls, spent.prompt + usage.prompt, spent.completion + usage.completion)
            self._seconds += seconds
        if store is not None and usage.total:
            store.spend(_account(self.config, store), 0, usage)

    def _log(
        self, store: JudgeStore | None, record: dict[str, Any], reply: Reply, milliseconds: int, verdict: Verdict
    ) -> None:
        if store is None or verdict.kind == "stopped":
            return
        secrets = self.config.secrets()
        found: dict[str, Any] = (
            {"scores": {n: list(s) for n, s in verdict.scores.items()}}
            if verdict.ok
            else {
                "kind": verdict.kind,
                "error": redacted(str(verdict.error), secrets),
            }
        )
        store.log(
            {"time": round(time.time(), 3)}
            | record
            | {"model": self.config.model, "reply": redacted(reply.text, secrets)}
            | {"usage": dataclasses.asdict(reply.usage), "ms": milliseconds}
            | found
        )


def shows_reference_first(row: str, sample: int) -> bool:
    """Order of an answer under `balanced`: a function of its key, so that a repeated run asks the same."""
    return zlib.crc32(f"{row}/{sample}".encode()) % 2 == 1


def _spoken(reply: str) -> str:
    """A reply without its thoughts, which would be paid for twice."""
    try:
        return without_thoughts(reply)
    except Exception:
        return ""


def call_again(config: JudgeConfig, body: Mapping[str, Any], stop: threading.Event) -> Reply:
    """A reply to a request that no judge asks, repeated while the endpoint refuses for now; keys are left out of it."""
    reply = Reply(kind="stopped", reason="another call ended the work")
    for retry in range(config.max_retries + 1):
        if stop.is_set():
            break
        reply = endpoint.call(config.url, config.request_headers(), body, config.timeout_s)
        reply = dataclasses.replace(reply, reason=redacted(reply.reason, config.secrets()))
        pause = reply.wait_s if reply.wait_s is not None else _pause(retry)
        if not reply.again or retry == config.max_retries or pause > LONGEST_PAUSE_S:
            break
        stop.wait(pause)
    return reply


def _pause(retry: int) -> float:
    """Seconds before a further try: growing, and not the same for all threads."""
    return min(8.0, 0.5 * 2**retry) * random.uniform(0.5, 1.0)


def _account(config: JudgeConfig, store: JudgeStore | None) -> str:
    """Under which spending is counted: a file that runs share counts each apart."""
    if store is None or store.path.parent == store.folder:
        return config.model
    return json.dumps([str(store.folder), config.model])


def _used_up(config: JudgeConfig, field: str, spent: str) -> JudgeBudgetError:
    return JudgeBudgetError(
        f"Judge {config.model!r}: the budget {field}={getattr(config, field)} is used up ({spent}). Give a larger "
        "one, or none, and run the same command again: it goes on, and replies so far are not paid for again."
    )
