"""What a judge is sent, how fast, and what its endpoint's answers become."""

import email.utils
import json
import threading
import time

import pytest

from lam_jax.errors import BadSettingError
from lam_jax.rewards.endpoint import read_completion, redacted, retry_after
from lam_jax.rewards.judge import Judge, JudgeConfig, JudgeError, JudgeReward, judges_of, require_usable
from lam_jax.rewards.judge_config import OPERATION, is_of_operation, judge_config
from lam_jax.rewards.limits import RateLimit
from lam_jax.rewards.verdict import Verdict
from lam_jax.values import decode, encode
from tests.rewards.faulty_judge import FaultyJudge, refusal, request, true_scores

URL = "http://localhost:8000/v1"
MESSAGES = [{"role": "user", "content": "?"}]


def test_the_request_holds_what_is_set():
    body = JudgeConfig(URL, "m").body(MESSAGES)
    assert body == {"model": "m", "messages": MESSAGES, "max_tokens": 2048, "temperature": 0.0}
    settings = (
        "token_limit=max_completion_tokens",
        "max_tokens=99",
        "temperature=none",
        "seed=7",
        'extra_body={"a": {"b": 1}}',
    )
    body = judge_config(URL, "m", settings).body(MESSAGES)
    assert body == {"model": "m", "messages": MESSAGES, "max_completion_tokens": 99, "seed": 7, "a": {"b": 1}}


def test_who_the_judge_is_may_stand_in_the_user_message():
    messages = [{"role": "system", "content": "You judge."}, {"role": "user", "content": "This?"}]
    roles = {
        role: JudgeConfig(URL, "m", system_role=role).body(messages)["messages"]
        for role in ("system", "developer", "none")
    }
    assert roles["system"] == messages
    assert [message["role"] for message in roles["developer"]] == ["developer", "user"]
    assert roles["none"] == [{"role": "user", "content": "You judge.\n\nThis?"}]


def test_headers_take_keys_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", " abcd-1234\n")
    config = JudgeConfig(URL, "m", api_key_env="NO_SUCH", headers={"api-key": "$MY_KEY", "X-Title": "mine"})
    headers = config.request_headers()
    assert (headers["api-key"], headers["X-Title"], "Authorization" in headers) == ("abcd-1234", "mine", False)
    assert JudgeConfig(URL, "m", api_key_env="MY_KEY").request_headers()["Authorization"] == "Bearer abcd-1234"
    with pytest.raises(BadSettingError, match=r"header 'api-key' takes its value from \$ABSENT, which is not set"):
        JudgeConfig(URL, "m", headers={"api-key": "$ABSENT"}).request_headers()
    assert "abcd" not in json.dumps(encode(config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_url": "https://me:pw@host/v1"}, "base_url holds a user, a password or a key"),
        ({"base_url": "https://host/v1?api_key=abc"}, "base_url holds"),
        ({"headers": {"Authorization": "Bearer abc"}}, "'Authorization' looks like a key"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"max_calls": 0}, "max_calls is 0"),
        ({"requests_per_minute": 0.0}, "requests_per_minute is 0.0"),
        ({"extra_body": {"messages": []}}, r"extra_body: found \['messages'\]"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        JudgeConfig(**{"base_url": URL, "model": "m"} | fields)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("concurency=3", "expected NAME=VALUE with one of api_key_env"),
        ("concurrency", "expected NAME=VALUE"),
        ("concurrency=many", "invalid literal"),
        ("order=random", "expected one of balanced, answer_first"),
        ("integers_only=1", "expected true or false"),
        ("extra_body=[1]", "expected a JSON object"),
        ("base_url=http://x", "expected NAME=VALUE"),
        ("timeout_s=0", "timeout_s is 0"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(setting, message):
    with pytest.raises(BadSettingError, match=message):
        judge_config(URL, "m", (setting,))


def test_an_azure_address_keeps_its_query():
    assert JudgeConfig(URL + "/", "m").url == f"{URL}/chat/completions"
    config = JudgeConfig("https://host/openai/deployments/x?api-version=1", "m")
    assert config.url == "https://host/openai/deployments/x/chat/completions?api-version=1"


def test_a_recipe_keeps_a_judge_and_a_run_may_change_its_operation():
    config = judge_config(URL, "m", ('headers={"X-Title": "a"}', "max_calls=5"))
    assert decode(json.loads(json.dumps(encode(config)))) == config
    changed = [f"recipe.tasks[0].reward.rewards[1][1].judge.{name}" for name in OPERATION]
    assert all(map(is_of_operation, changed))
    assert is_of_operation("recipe.tasks[0].reward.judge.headers.X-Title")
    for name in ("model", "temperature", "max_tokens", "order", "match", "form", "seed", "extra_body.a", "attempts"):
        assert not is_of_operation(f"recipe.tasks[0].reward.judge.{name}")


def reply(message, finish="stop", **fields):
    return read_completion(
        json.dumps({"choices": [{"message": message, "finish_reason": finish}]} | fields).encode(), ""
    )


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!DOCTYPE html><html></html>", "html"),
        (b"\xef\xbb\xbf <HTML>", "html"),
        (b"", "broken_json"),
        (b'{"choices": [', "broken_json"),
        (b"data: {}\n\n", "broken_json"),
        (b"[" * 100_000, "broken_json"),
        (b"\xff\xfe\x00", "broken_json"),
        (b"null", "empty"),
        (b"[]", "empty"),
        (b'"text"', "empty"),
        (b'{"choices": null}', "empty"),
        (b'{"choices": []}', "empty"),
        (b'{"choices": [null]}', "empty"),
        (b'{"choices": [{"message": null, "finish_reason": "stop"}]}', "empty"),
        (b'{"choices": [{"message": "text", "finish_reason": "stop"}]}', "empty"),
        (b'{"error": {"message": "overloaded"}}', "server_error"),
        (b'{"error": {"code": "insufficient_quota"}}', "quota"),
    ],
)
def test_bodies_without_a_reply_are_failures_of_a_kind(data, kind):
    found = read_completion(data, "application/json")
    assert (found.kind, found.text) == (kind, "")
    assert found.reason


@pytest.mark.parametrize(
    ("message", "finish", "kind"),
    [
        ({"content": "a"}, "length", "truncated"),
        ({"content": "a"}, "content_filter", "refused"),
        ({"content": "a"}, None, "no_finish_reason"),
        ({"content": "a"}, "tool_calls", "finish_reason"),
        ({"content": None, "refusal": "I will not"}, "stop", "refused"),
        ({"content": None}, "stop", "empty"),
        ({}, "stop", "empty"),
        ({"content": " \n"}, "stop", "empty"),
        ({"content": "", "reasoning_content": "hm (3, 9)"}, "stop", "unfinished_thinking"),
        ({"content": 5}, "stop", "unparsable"),
        ({"content": [{"type": "image_url"}]}, "stop", "unparsable"),
        ({"content": [{"type": "text", "text": 5}]}, "stop", "unparsable"),
    ],
)
def test_messages_without_a_whole_text_are_failures_of_a_kind(message, finish, kind):
    assert reply(message, finish).kind == kind


@pytest.mark.parametrize(
    "message",
    [
        {"content": "ab"},
        {"content": "ab", "refusal": None, "reasoning_content": "(3, 9)"},
        {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"content": ["a", {"type": "output_text", "text": "b"}]},
        {"content": [{"type": "thinking", "thinking": "(3, 9)"}, {"type": "text", "text": {"value": "ab"}}]},
    ],
)
def test_parts_of_text_are_joined(message):
    found = reply(message, usage={"prompt_tokens": 3, "completion_tokens": 4})
    assert (found.kind, found.text, found.usage.prompt, found.usage.completion) == (None, "ab", 3, 4)


@pytest.mark.parametrize(
    "usage", [None, [], "7", {"prompt_tokens": None}, {"prompt_tokens": -1}, {"prompt_tokens": 1e400}]
)
def test_a_usage_that_is_none_counts_nothing(usage):
    data = json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": usage})
    assert read_completion(data.encode(), "").usage.total == 0


def test_retry_after_is_seconds_or_a_date():
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"retry-after-ms": "1500", "Retry-After": "7"}) == 1.5
    assert retry_after({"Retry-After": email.utils.formatdate(time.time() + 30)}) == pytest.approx(30, abs=5)
    assert retry_after({"Retry-After": email.utils.formatdate(time.time() - 30)}) == 0
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None


def test_keys_are_taken_out_of_texts():
    text = redacted("key hunter2secret, Bearer abc.def and sk-proj-1234abcd, not task-1", ["hunter2secret"])
    assert text == "key [key], Bearer [key] and [key], not task-1"


class Clock(threading.Event):
    """Time that passes when it is waited for."""

    def __init__(self):
        super().__init__()
        self.now, self.went = 0.0, []

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0
        return False

    def go(self, limit: RateLimit, calls: int, tokens: int = 100) -> list[float]:
        for _ in range(calls):
            limit.wait(tokens, self)
            self.went.append(self.now)
        return self.went


def test_no_minute_holds_more_requests_or_tokens_than_allowed():
    assert Clock().go(RateLimit(None, None), 3) == [0, 0, 0]
    clock = Clock()
    assert clock.go(RateLimit(3, None, clock), 7) == [0, 0, 0, 60, 60, 60, 120]
    clock = Clock()
    assert clock.go(RateLimit(None, 250, clock), 5) == [0, 0, 60, 60, 120]
    clock = Clock()
    assert clock.go(RateLimit(None, 50, clock), 3) == [0, 60, 120], "a call above the limit goes alone"
    clock = Clock()
    limit = RateLimit(None, None, clock)
    limit.pause(9)
    assert clock.go(limit, 1) == [9]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("'max_tokens'. Use 'max_completion_tokens' instead.", "set token_limit=max_completion_tokens"),
        ("'temperature' must be 1", "set temperature=none"),
        ("System role not supported", "set system_role=none"),
        ("this model's maximum context length is 4096", "too long for this model"),
    ],
)
def test_a_refused_parameter_says_what_to_set(said, advice):
    with FaultyJudge() as fake:
        fake.answer = refusal(400, f"Unsupported parameter: {said}")
        (verdict,) = Judge(JudgeConfig(fake.url, "m")).score([request(0)])
    assert verdict.kind == "http_400"
    assert advice in str(verdict.error)


def test_redirects_are_not_followed():
    """The key would go along."""
    with FaultyJudge() as fake:

        def redirect(handler, body):
            handler.send_response(307)
            handler.send_header("Location", "http://elsewhere/v1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        fake.answer = redirect
        (verdict,) = Judge(JudgeConfig(fake.url, "m")).score([request(0)])
    assert verdict.kind == "http_307"
    assert "http://elsewhere/v1" in str(verdict.error)


def test_a_judge_of_which_nothing_can_be_used_stops_before_training():
    reward = JudgeReward(JudgeConfig(URL, "m"), request(0).rubric)
    assert judges_of(reward) == [reward]
    failed = Verdict(error="Connection refused", kind="connection")
    with pytest.raises(JudgeError, match=r"Task x: the judge 'm' at .*\(connection\): Connection refused\. Check the"):
        require_usable(reward, [failed] * 2, "Task x")
    require_usable(reward, [failed, Verdict(true_scores(0))], "Task x")
    require_usable(object(), [failed], "Task x")
