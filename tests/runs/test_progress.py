"""Bars on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from lam_jax.runs.progress import Progress, duration, rate


def lines(interval, **kwargs):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=60), interval)
    with progress.bar("stage1_inverse", 3, **kwargs) as bar:
        for step in range(kwargs.get("start", 0) + 1, 4):
            bar.update(step, {"loss": 1 / step})
    return out.getvalue().splitlines()


def test_without_a_terminal_there_are_plain_lines():
    found = lines(interval=0)
    assert [line.split()[1] for line in found] == ["1/3", "2/3", "3/3"]
    assert "left" in found[0]
    assert "loss 0.3333" in found[2]
    assert not any("\x1b" in line for line in found)


def test_lines_come_at_most_once_an_interval_and_at_the_end():
    assert [line.split()[1] for line in lines(interval=1e9)] == ["3/3"]
    assert [line.split()[1] for line in lines(interval=0, start=2)] == ["3/3"]


def test_on_a_terminal_there_is_a_bar_with_rate_time_and_values_and_bars_nest():
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=True, width=160, color_system=None))
    with progress.bar("rl", 2) as outer, progress.bar("evaluate", 5) as inner:
        inner.update(5, {"score": 0.75})
        outer.update(1, {"reward": 0.5})
        progress.say("checkpoint saved")
    text = out.getvalue()
    for part in ("rl", "evaluate", "1/2", "5/5", "/s", "reward 0.5", "score 0.75", "checkpoint saved"):
        assert part in text


def test_quiet_progress_prints_nothing(capsys):
    with Progress(enabled=False).bar("a", 1) as bar:
        bar.update(1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (65.4, "1:05"), (3661, "1:01:01")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_rates_use_the_readable_unit():
    assert rate(30, 10) == "3.0 steps/s"
    assert rate(4, 10) == "2.5 s/step"
    assert rate(0, 1) == "- steps/s"
