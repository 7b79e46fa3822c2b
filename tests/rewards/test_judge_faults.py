"""A judge that fails in every way that is known: no score is made up, each failure has its kind, nothing is paid twice.

`LAM_JAX_JUDGE_CALLS=2000 pytest tests/rewards/test_judge_faults.py` asks about more answers.
"""

import collections
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lam_jax.rewards import endpoint, judge_client, judge_store
from lam_jax.rewards.functions import WeightedReward
from lam_jax.rewards.judge import (
    Judge,
    JudgeBudgetError,
    JudgeConfig,
    JudgeReward,
    client_of,
    judge_metrics,
    usage_lines,
)
from lam_jax.rewards.judge_store import CACHE, LOG, VARIABLE
from tests.rewards.faulty_judge import FAULTS, FaultyJudge, refusal, request, true_scores

ANSWERS = int(os.environ.get("LAM_JAX_JUDGE_CALLS", "300"))
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without pauses between tries, and without a file of replies that a developer may have."""
    monkeypatch.setattr(judge_client, "_pause", lambda retry: 0.01)
    monkeypatch.delenv(VARIABLE, raising=False)


def config(fake: FaultyJudge, **fields) -> JudgeConfig:
    return JudgeConfig(fake.url, "fake", **({"timeout_s": 3.0, "max_retries": 2, "concurrency": 16} | fields))


def often(share: float, seed: int = 0):
    """Faults of all kinds in that share of the calls, by the number of the answer and of its call."""

    def fault(number: int, call: int) -> str | None:
        dice = random.Random(f"{seed}/{number}/{call}")
        return dice.choice(sorted(FAULTS)) if dice.random() < share else None

    return fault


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def kinds(records) -> collections.Counter:
    return collections.Counter(record["kind"] for record in records if "kind" in record)


def test_faults_in_a_third_of_the_calls(tmp_path):
    requests = [request(number) for number in range(ANSWERS)]
    with FaultyJudge(often(0.3)) as fake, judge_store.opened(tmp_path):
        judge = Judge(config(fake))
        verdicts = judge.score(requests)
        for number, verdict in enumerate(verdicts):
            if verdict.ok:
                assert dict(verdict.scores) == true_scores(number), number
        failed = [number for number, verdict in enumerate(verdicts) if not verdict.ok]
        assert len(failed) < 0.1 * ANSWERS
        assert all(verdicts[number].kind and verdicts[number].error for number in failed)
        assert judge.usage.failed == collections.Counter(verdicts[number].kind for number in failed)
        # Every call is logged under the kind of what the server did.
        assert kinds(logged(tmp_path)) == collections.Counter(
            FAULTS[fault] for _, fault in fake.calls if fault and FAULTS[fault]
        )
        assert judge.usage.calls == len(fake.calls) == len(logged(tmp_path))
        assert set(fake.good) == set(range(ANSWERS)) - set(failed)

        done = len(fake.calls)
        fake.fault = lambda number, call: None
        again = Judge(config(fake)).score([request(number) for number in range(ANSWERS) if number not in failed])
        assert len(fake.calls) == done, "a second pass asks nothing"
        assert again == [verdict for verdict in verdicts if verdict.ok]
        # What failed was not kept, whatever its text: it is asked for again.
        mended = Judge(config(fake)).score([request(number) for number in failed])
        assert len(fake.calls) == done + len(failed)
        assert [dict(v.scores) for v in mended] == [true_scores(number) for number in failed]


@pytest.mark.parametrize("fault", [fault for fault, kind in FAULTS.items() if kind])
def test_a_judge_that_always_fails(tmp_path, fault):
    with FaultyJudge(lambda number, call: fault) as fake, judge_store.opened(tmp_path):
        settings = config(fake, timeout_s=0.3 if fault == "timeout" else 10.0, max_retries=1)
        judge = Judge(settings)
        verdicts = judge.score([request(number) for number in range(3)])
    assert [verdict.kind for verdict in verdicts] == [FAULTS[fault]] * 3
    assert judge.usage.failed == {FAULTS[fault]: 3}
    assert set(kinds(logged(tmp_path))) == {FAULTS[fault]}


@pytest.mark.parametrize("fault", [fault for fault, kind in FAULTS.items() if not kind])
def test_odd_replies_with_the_true_scores_are_read(fault):
    with FaultyJudge(lambda number, call: fault) as fake:
        verdicts = Judge(config(fake)).score([request(number) for number in range(4)])
    assert [dict(v.scores) for v in verdicts] == [true_scores(number) for number in range(4)]


def test_a_reply_that_drips_is_not_waited_for():
    """Each byte comes in time, all of them together do not."""
    with FaultyJudge() as fake:

        def drip(handler, body):
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            while not fake.closing.wait(0.05):
                handler.wfile.write(b" ")

        fake.answer = drip
        (verdict,) = Judge(config(fake, timeout_s=0.4, max_retries=0)).score([request(0)])
    assert verdict.kind == "timeout"


def settled(fake: FaultyJudge) -> int:
    """How many calls have come, once those that a killed process had sent have been taken in."""
    count = -1
    while count != len(fake.calls):
        count = len(fake.calls)
        time.sleep(1)
    return count


def test_a_killed_process_pays_for_no_finished_call_again(tmp_path):
    killed = threading.Event()
    with FaultyJudge() as fake:
        answer = fake.answer

        def half(handler, body):
            if len(fake.calls) >= 25 and not killed.is_set():
                killed.wait(60)
                return
            answer(handler, body)

        fake.answer = half
        command = [sys.executable, "-m", "tests.rewards.judge_child", fake.url, str(tmp_path), "0", "60"]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        while len(fake.calls) < 25 and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
        killed.set()
        assert child.stdout is not None
        child.stdout.close()
        with sqlite3.connect(tmp_path / CACHE) as connection:
            (kept,) = connection.execute("SELECT COUNT(*) FROM replies").fetchone()
        before = settled(fake)
        assert 25 - 4 <= kept < 60, "all but those under way are kept"
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        assert json.loads(done.stdout) == {"ok": 60, "wrong": []}
        assert len(fake.calls) - before == 60 - kept
        assert len(logged(tmp_path)) >= 60 - 4, "the log goes on with whole lines"


def test_several_processes_share_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shared.sqlite"))
    with FaultyJudge(delay_s=0.01) as fake:
        command = [sys.executable, "-m", "tests.rewards.judge_child", fake.url]
        children = [
            subprocess.Popen([*command, str(tmp_path / str(i)), "0", "40"], cwd=ROOT, stdout=subprocess.PIPE)
            for i in range(3)
        ]
        for child in children:
            out, _ = child.communicate(timeout=60)
            assert json.loads(out) == {"ok": 40, "wrong": []}
        asked = len(fake.calls)
        assert 40 <= asked <= 120
        with judge_store.opened(tmp_path / "last"):
            judge = Judge(config(fake))
            assert all(verdict.ok for verdict in judge.score([request(number) for number in range(40)]))
        assert (len(fake.calls), judge.usage.cached) == (asked, 40)


def test_equal_answers_that_are_under_way_are_asked_about_once(tmp_path):
    made = [request(1)] * 12
    with FaultyJudge(delay_s=0.05) as fake, judge_store.opened(tmp_path):
        assert [dict(v.scores) for v in Judge(config(fake)).score(made)] == [true_scores(1)] * 12
        assert len(fake.calls) == 1


def test_the_budget_of_calls_ends_the_scoring(tmp_path):
    with FaultyJudge() as fake:
        with pytest.raises(JudgeBudgetError, match="the budget max_calls=10 is used up"):
            Judge(config(fake, max_calls=10)).score([request(number) for number in range(30)])
        assert len(fake.calls) == 10
    for most, calls in ((10, 10), (10, 10), (11, 11)):  # what was spent belongs to the folder, not to the process
        with FaultyJudge() as fake, judge_store.opened(tmp_path):
            judge = Judge(config(fake, max_calls=most))
            with pytest.raises(JudgeBudgetError, match=f"max_calls={most}"):
                judge.score([request(number) for number in range(30)])
            assert len(logged(tmp_path)) == calls


def test_the_budget_of_tokens_ends_the_scoring(tmp_path):
    """110 tokens a call: after 5 calls 550 are spent, and a sixth begins no more."""
    with FaultyJudge() as fake, judge_store.opened(tmp_path):
        judge = Judge(config(fake, max_total_tokens=500, concurrency=1))
        with pytest.raises(JudgeBudgetError, match=r"max_total_tokens=500 is used up \(550 tokens\)"):
            judge.score([request(number) for number in range(10)])
        assert (len(fake.calls), judge.usage.prompt, judge.usage.completion) == (5, 500, 50)


def test_keys_are_never_written(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "topsecret-12345")
    with FaultyJudge() as fake, judge_store.opened(tmp_path):
        seen = []
        answer = fake.answer

        def spy(handler, body):
            seen.append(handler.headers["Authorization"])
            if len(seen) == 1:
                data = json.dumps({"error": {"message": f"bad key {seen[0]} and sk-abcdef123456"}}).encode()
                handler.send_response(400)
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data)
            else:
                answer(handler, body)

        fake.answer = spy
        verdicts = Judge(config(fake, concurrency=1)).score([request(0), request(1)])
    assert seen == ["Bearer topsecret-12345"] * 2
    assert (verdicts[0].kind, verdicts[1].ok) == ("http_400", True)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"topsecret" not in written
    assert "topsecret" not in str(verdicts[0].error)
    assert "sk-abcdef" not in str(verdicts[0].error)


def test_one_repair_request_shows_what_was_wrong():
    with FaultyJudge(lambda number, call: "few" if call == 0 else None) as fake:
        bodies = []
        answer = fake.answer
        fake.answer = lambda handler, body: (bodies.append(body), answer(handler, body))
        (verdict,) = Judge(config(fake)).score([request(3)])
    assert dict(verdict.scores) == true_scores(3)
    first, second = (body["messages"] for body in bodies)
    assert second[:2] == first
    assert [message["role"] for message in second[2:]] == ["assistant", "user"]
    assert "without: Image-Text Relevance" in second[3]["content"]


def test_what_was_spent_is_told(tmp_path):
    with FaultyJudge(lambda number, call: "few" if number == 1 else None) as fake, judge_store.opened(tmp_path):
        reward = JudgeReward(config(fake), request(0).rubric)
        judge = client_of(reward.judge)
        judge.score([request(number) for number in range(3)])
        judge.score([request(0)])
        both = WeightedReward((("a", reward, 1.0), ("b", reward, 1.0)))
    assert judge_metrics(reward) == {
        "judge_calls": 4,  # one of them repeated
        "judge_prompt_tokens": 400,
        "judge_completion_tokens": 40,
        "judge_cached": 1,
        "judge_failed/missing_dimension": 1,
    }
    assert judge_metrics(both)["judge_calls"] == 8
    assert judge_metrics(object()) == {}
    assert any(
        "fake: 4 calls, 400 tokens in and 40 out, 1 verdicts from kept replies, failed for good: 1 missing_dimension"
        in line
        for line in usage_lines()
    )


def test_headers_that_drip_are_not_waited_for():
    """A socket's own time-out begins anew with every byte."""
    ended = threading.Event()

    def drip(handler, body):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(90):
            if ended.wait(0.05):
                return
            handler.wfile.write(b"X-More: 1\r\n")
            handler.wfile.flush()

    with FaultyJudge() as fake:
        fake.answer = drip
        reply = endpoint.call(f"{fake.url}/chat/completions", {}, {"messages": []}, 0.3)
        ended.set()
    assert (reply.kind, reply.again) == ("timeout", True)


def test_what_a_server_says_does_not_steer_the_terminal():
    def garbage(handler, body):
        handler.wfile.write(b"\x1b[2J\x07 not http\r\n\r\n")

    with FaultyJudge() as fake:
        fake.answer = garbage
        reply = endpoint.call(f"{fake.url}/chat/completions", {}, {"messages": []}, 5)
        fake.answer = refusal(400, "\x1b[31mno\x07")
        refused = endpoint.call(f"{fake.url}/chat/completions", {}, {"messages": []}, 5)
    assert (reply.kind, refused.kind) == ("connection", "http_400")
    assert (reply.reason + refused.reason).isprintable()


def test_a_damaged_reply_is_asked_for_again(tmp_path):
    with FaultyJudge() as fake:
        for kept in ("not json", '"no scores"', "5", None):
            with judge_store.opened(tmp_path):
                if kept is not None:
                    assert Judge(config(fake)).score([request(0)])[0].ok
                    with sqlite3.connect(tmp_path / CACHE) as base:
                        base.execute("UPDATE replies SET reply = ?", (kept,))
                    base.close()
                assert Judge(config(fake)).score([request(0)])[0].scores == true_scores(0)
        assert len(fake.calls) == 4


def test_the_shared_file_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "~/shared.sqlite")
    with judge_store.opened(tmp_path / "run") as store:
        assert store.path == tmp_path / "shared.sqlite"
