"""`lam-jax judge check` against judges that can be used and that cannot."""

import json

import pytest

from lam_jax.cli import main
from lam_jax.rewards import judge_client
from lam_jax.rewards.dimensions import HELP, ROLE_PLAY
from lam_jax.rewards.judge_check import BAD
from tests.rewards.faulty_judge import FaultyJudge


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(judge_client, "_pause", lambda retry: 0.0)


def judge(good: int, bad: int, names=ROLE_PLAY, usage=True):
    """A server that scores the check's good and bad answer; the reference gets 8."""

    def answer(handler, body):
        prompt = body["messages"][1]["content"]
        first = prompt[prompt.index("## Model A") : prompt.index("## Model B")]
        is_bad = BAD in prompt
        own = bad if is_bad else good
        # The reference stands first where neither answer does.
        shown_first = BAD in first or "tower of stone" in first or "First move" in first
        pair = (own, 8) if shown_first else (8, own)
        text = "\n".join(f"{name}: x [Scores]: {pair}" for name in names)
        found = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
        found |= {"usage": {"prompt_tokens": 700, "completion_tokens": 90}} if usage else {}
        data = json.dumps(found).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@pytest.mark.parametrize(
    ("answer", "task", "code", "texts"),
    [
        (
            judge(8, 2),
            "role_play",
            0,
            ["good answer: 1.000", "bad answer: 0.250", "790 tokens", "Fluency: 8 against 8"],
        ),
        (judge(8, 2, HELP), "help", 0, ["good answer: 1.000", "Conversational Flow: 2 against 8"]),
        (judge(5, 5), "role_play", 1, ["the bad answer scores as well as the good one"]),
        (judge(8, 2, HELP), "role_play", 1, ["failed, missing_dimension", "take a stronger model"]),
        (judge(8, 2, usage=False), "role_play", 0, ["counts no tokens"]),
    ],
)
def test_check(capsys, answer, task, code, texts):
    with FaultyJudge() as fake:
        fake.answer = answer
        flags = ["judge", "check", "--judge", fake.url, "--judge-model", "m", "--task", task]
        assert main(flags) == code
    shown = capsys.readouterr().out
    assert all(text in shown for text in texts), shown


def test_check_of_an_endpoint_that_refuses(capsys):
    with FaultyJudge() as fake:
        fake.answer = lambda handler, body: (handler.send_error(404, "no such model"), None)[1]
        assert main(["judge", "check", "--judge", fake.url, "--judge-model", "m"]) == 1
    assert "check the address (does it end in /v1?) or the model name" in capsys.readouterr().out


def test_a_setting_that_is_none_is_a_bad_flag(capsys):
    assert main(["judge", "check", "--judge", "http://h/v1", "--judge-model", "m", "--judge-settings", "a=1"]) == 2
    assert "expected NAME=VALUE with one of" in capsys.readouterr().err
