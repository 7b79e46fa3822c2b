"""The judge client against a small server on the loopback interface that speaks the chat-completions protocol."""

import json
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lam_jax.rewards.dimensions import HELP, HELP_RUBRIC, ROLE_PLAY, ROLE_PLAY_RUBRIC
from lam_jax.rewards.judge import Judge, JudgeConfig, JudgeError, shows_reference_first, warn_same_judge
from lam_jax.rewards.judge_prompt import JudgeRequest, judge_messages


class FakeJudge:
    """A server whose `reply(prompt, call number)` returns the text of a reply, an HTTP status, or seconds to sleep."""

    def __init__(self):
        self.reply = lambda prompt, call: scores(8, 4, 5)
        self.bodies: list[dict] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.answer(self, body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler, body: dict) -> None:
        with self._lock:
            self.bodies.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            reply = self.reply(body["messages"][-1]["content"], len(self.bodies))
        if isinstance(reply, float):
            time.sleep(reply)
            reply = scores(8, 4, 5)
        status = reply if isinstance(reply, int) else 200
        message = {"role": "assistant", "content": reply}
        payload = {"error": {"message": f"status {status}"}} if status != 200 else {
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }  # fmt: skip
        data = json.dumps(payload).encode()
        with self._lock:
            self._now -= 1
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.send_header("retry-after-ms", "1")
            handler.end_headers()
            handler.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up waiting

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def scores(count, first, second):
    assert count == len(ROLE_PLAY)
    return "\n".join(f"{name}: something. [Scores]: ({first}, {second})" for name in ROLE_PLAY)


@pytest.fixture
def fake() -> Iterator[FakeJudge]:
    server = FakeJudge()
    yield server
    server.close()


def config(fake: FakeJudge, **changes) -> JudgeConfig:
    settings = {"timeout_s": 10.0, "max_retries": 2, "concurrency": 4} | changes
    return JudgeConfig(base_url=fake.url, model="fake-judge", **settings)


def request(row: str = "row", sample: int = 0, answer: str = "the answer") -> JudgeRequest:
    messages = ({"role": "system", "content": "You are Iron Man."}, {"role": "user", "content": "What is this?"})
    return JudgeRequest(row, sample, ROLE_PLAY_RUBRIC, messages, answer, "the reference")


FACTS = {"role_set": {"school": "teacher"}, "location": "school", "ImageDesc": "a broken chair", "EvalHelp": ["calm"]}


def test_verdicts_come_back_in_order(fake):
    """The server scores an answer by the number in it, whichever side it is shown on."""

    def by_number(prompt, call):
        shown_first = prompt.index("number ") < prompt.index("the reference")
        score = int(prompt.split("number ")[1].split()[0])
        return scores(8, *((score, 5) if shown_first else (5, score)))

    fake.reply = by_number
    requests = [request("row", k, f"number {k % 10 + 1} said") for k in range(20)]
    with Judge(config(fake)) as judge:
        verdicts = judge.score(requests)
    assert [v.reward for v in verdicts] == pytest.approx([(k % 10 + 1) / 5 for k in range(20)])
    assert {shows_reference_first("row", k) for k in range(20)} == {True, False}
    assert list(verdicts[0].scores) == list(ROLE_PLAY)


def test_request_holds_model_temperature_and_conversation(fake):
    with Judge(config(fake).official()) as judge:
        verdict = judge.score([request()])[0]
    body = fake.bodies[0]
    assert (body["model"], body["temperature"]) == ("fake-judge", 0)
    prompt = body["messages"][-1]["content"]
    assert prompt.index("the answer") < prompt.index("the reference")
    assert "[user]: What is this?" in prompt
    assert all(name in prompt for name in ROLE_PLAY)
    assert verdict.mean_ratio == pytest.approx(0.8)


def test_server_errors_are_retried(fake):
    fake.reply = lambda prompt, call: (500, 429, scores(8, 10, 10))[call - 1]
    with Judge(config(fake)) as judge:
        assert judge.score([request()])[0].ok
    assert len(fake.bodies) == 3


def test_a_call_that_keeps_failing_is_one_failed_verdict(fake):
    fake.reply = lambda prompt, call: 500 if "bad one" in prompt else scores(8, 10, 10)
    with Judge(config(fake, max_retries=1)) as judge:
        verdicts = judge.score([request("a"), request("b", answer="bad one"), request("c")])
    assert [v.ok for v in verdicts] == [True, False, True]
    assert verdicts[1].kind == "http_500"
    assert "Internal Server Error" in verdicts[1].error


def test_unreadable_reply_is_asked_again(fake):
    fake.reply = lambda prompt, call: "I cannot decide." if call == 1 else scores(8, 10, 10)
    with Judge(config(fake)) as judge:
        assert judge.score([request()])[0].ok
    fake.bodies.clear()
    with Judge(config(fake).official()) as judge:
        verdict = judge.score([request()])[0]
    assert not verdict.ok
    assert "0 score pairs in the reply, expected 8" in verdict.error
    assert verdict.kind == "unparsable"


def test_timeout_is_a_failed_verdict(fake):
    fake.reply = lambda prompt, call: 0.6
    with Judge(config(fake, timeout_s=0.15, max_retries=0)) as judge:
        verdict = judge.score([request()])[0]
    assert verdict.kind == "timeout"
    assert "Timeout" in verdict.error


def test_unreachable_server_is_a_failed_verdict(fake):
    settings = config(fake, max_retries=0)
    fake.server.server_close()
    with Judge(settings) as judge:
        verdict = judge.score([request()])[0]
    assert verdict.kind == "connection"
    assert "Connection" in verdict.error


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_stops_everything(fake, status):
    fake.reply = lambda prompt, call: status
    with Judge(config(fake)) as judge, pytest.raises(JudgeError, match=r"fake-judge.*OPENAI_API_KEY"):
        judge.score([request(sample=k) for k in range(3)])


def test_calls_run_at_once_up_to_the_limit(fake):
    """All four of a batch must be in flight before any is answered; a fifth never is."""
    together = threading.Barrier(4)
    answer = fake.answer

    def wait_for_the_others(handler, body):
        together.wait(timeout=20)
        answer(handler, body)

    fake.answer = wait_for_the_others
    with Judge(config(fake, concurrency=4, max_retries=0)) as judge:
        verdicts = judge.score([request(sample=k) for k in range(8)])
    assert all(v.ok for v in verdicts)
    assert fake.most_at_once <= 4


def test_no_requests_no_calls(fake):
    with Judge(config(fake)) as judge:
        assert judge.score([]) == []
    assert fake.bodies == []


def test_help_prompt_shows_the_users_side():
    made = JudgeRequest("r", 0, HELP_RUBRIC, ({"role": "user", "content": "What now?"},), "A1", "R1", FACTS)
    system, user = (message["content"] for message in judge_messages(made, swapped=True))
    assert "You are the user" in system
    for part in ("- school: teacher", "a broken chair", '["calm"]', *HELP):
        assert part in user
    assert user.index("R1") < user.index("A1")


def test_help_needs_its_facts():
    with pytest.raises(ValueError, match=r"row 'r': facts lack \['EvalHelp'\]"):
        JudgeRequest("r", 0, HELP_RUBRIC, (), "a", "b", {key: FACTS[key] for key in FACTS if key != "EvalHelp"})


def test_same_model_in_two_roles_is_warned_about():
    with pytest.warns(UserWarning, match=r"reward judge and evaluation judge are the same model \(Big-1\)"):
        warn_same_judge("Big-1", "big-1 ", "other")
    with pytest.warns(UserWarning, match="evaluation judge and writer of the references"):
        warn_same_judge("small", "big-1", "big-1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_same_judge("small", "big-1", None)


@pytest.mark.parametrize(
    "change",
    [
        *({"base_url": "localhost"}, {"attempts": 0}, {"timeout_s": 0.0}, {"timeout_s": float("inf")}),
        *({"timeout_s": float("nan")}, {"requests_per_minute": float("nan")}, {"tokens_per_minute": float("nan")}),
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        JudgeConfig(**{"base_url": "http://localhost/v1", "model": "m"} | change)
