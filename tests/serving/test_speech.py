"""Text as it comes: what is held back, where it ends; and what a server says before it starts."""

from pathlib import Path

import pytest

from lam_jax.errors import BadSettingError
from lam_jax.serving import server
from lam_jax.serving.counters import Counters
from lam_jax.serving.settings import ServeSettings
from lam_jax.serving.speech import Speech

END = 0


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def speak(text: str, stops=(), piece: int = 1):
    """What is told piece by piece, and the speech; tokens are bytes."""
    speech, told, tokens = Speech(decode, (END,), stops, live=True), [], [*text.encode(), END]
    for start in range(0, len(tokens), piece):
        speech.add(tokens[start : start + piece])
        last = speech.ended or start + piece >= len(tokens)
        if last:
            speech.close()
        told.append(speech.news(last))
        if last:
            break
    return told, speech


@pytest.mark.parametrize("piece", [1, 2, 3, 50])
def test_pieces_add_up_to_the_text_and_no_half_character_is_told(piece):
    told, speech = speak("Größe: 3 \U0001f600!", piece=piece)
    assert "".join(told) == speech.text == "Größe: 3 \U0001f600!"
    assert speech.ended
    assert not any("\ufffd" in part for part in told)


@pytest.mark.parametrize("piece", [1, 2, 3, 50])
def test_nothing_of_a_stop_is_told_however_it_is_cut(piece):
    told, speech = speak("one two STOP three", ("STOP",), piece)
    assert "".join(told) == speech.text == "one two "
    assert bytes(speech.tokens) == b"one two STOP"


def test_what_began_like_a_stop_and_was_none_is_told_later():
    told, speech = speak("a STO STO", ("STOP",))
    assert told[:5] == ["a", " ", "", "", ""]
    assert "".join(told) == speech.text == "a STO STO"


def test_the_stop_that_is_complete_first_counts():
    _, speech = speak("abcd", ("abcd", "bc"))
    assert speech.text == "a"


@pytest.mark.parametrize("stops", [("bcd", "d"), ("d", "bcd")])
def test_of_two_stops_that_one_token_completes_the_longer_is_left_out_too(stops):
    told, speech = speak("abcd", stops)
    assert "".join(told) == speech.text == "a"


def test_an_end_before_the_stop_and_tokens_after_it():
    speech = Speech(decode, (END,), ("x",))
    assert speech.add([97, END, 120]) == 2
    assert (speech.text, speech.ended) == ("a", True)


def test_metrics_are_prometheus_text():
    counters = Counters()
    counters.add("requests_total", label='status="200"')
    counters.add("requests_total", 2, label='status="413"')
    lines = counters.text({"slots": 4}).splitlines()
    assert lines[:4] == [
        "# HELP lam_jax_requests_total Requests to /v1/chat/completions by the status that they were answered with.",
        "# TYPE lam_jax_requests_total counter",
        'lam_jax_requests_total{status="200"} 1',
        'lam_jax_requests_total{status="413"} 2',
    ]
    assert "lam_jax_slots 4" in lines


def test_missing_packages_are_named_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setattr(server, "NEEDED", ("starlette", "no_such_package"))
    with pytest.raises(server.ServeError, match=r"needs no_such_package: pip install 'lam_jax\[serve\]'"):
        server.require_packages()


@pytest.mark.parametrize(
    "wrong", [{"slots": 0}, {"port": 70000}, {"timeout": 0}, {"queue": -1}, {"image_root": Path("no")}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(BadSettingError, match=next(iter(wrong))):
        ServeSettings(**wrong)
