"""Bars on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from lam_jax.runs import progress as module
from lam_jax.runs.progress import Progress, duration, rate
from lam_jax.runs.time_left import TimeLeft


@pytest.fixture
def clock(monkeypatch):
    """Seconds that stand still until a test moves them."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def lines(interval, seconds=(), clock=None, after=None, **kwargs):
    """Lines of a loop whose steps take these seconds."""
    out = io.StringIO()
    progress = Progress(Console(file=out, width=60), interval)
    if after is not None:
        progress.after = {"stage1_inverse": after}.get
    start, total = kwargs.get("start", 0), kwargs.pop("total", 3)
    with progress.bar("stage1_inverse", total, **kwargs) as bar:
        for step in range(start + 1, total + 1):
            if clock:
                clock[0] += seconds[step - start - 1]
            bar.update(step, {"loss": 1 / step})
    assert progress.steps == {"stage1_inverse": total - start}
    return out.getvalue().splitlines()


def test_without_a_terminal_there_are_plain_lines():
    found = lines(interval=0)
    assert [line.split()[1] for line in found] == ["1/3", "2/3", "3/3"]
    assert "loss 0.3333" in found[2]
    assert not any("\x1b" in line for line in found)


def test_lines_come_at_most_once_an_interval_and_at_the_end():
    assert [line.split()[1] for line in lines(interval=1e9)] == ["3/3"]
    assert [line.split()[1] for line in lines(interval=0, start=2)] == ["3/3"]


@pytest.mark.parametrize("start", [0, 5])
def test_steps_that_compile_are_no_part_of_an_estimate(clock, start):
    """A minute and 20 s to compile, then 2 s a step."""
    found = lines(0, (60, 20, 2, 2, 2), clock, total=start + 5, start=start)
    assert ["left" in line for line in found] == [False, False, True, True, False]
    assert not any("step" in line.partition("/")[2] for line in found[:2]), "no rate either"
    assert "2.0 s/step  0:04 left" in found[2]
    assert "2.0 s/step  0:02 left" in found[3]
    assert "2.0 s/step" in found[4]


@pytest.mark.parametrize(("whole", "word"), [(True, "about"), (False, "at least")])
def test_the_rest_of_the_run_is_added_where_it_is_known(clock, whole, word):
    found = lines(0, (60, 20, 2, 2, 2), clock, total=5, after=TimeLeft(236.0, whole))
    assert f"0:04 left ({word} 4 min in all)" in found[2]
    assert "in all" not in found[1]


def test_on_a_terminal_there_is_a_bar_with_rate_time_and_values_and_bars_nest(clock):
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=True, width=200, color_system=None))
    progress.after = {"rl": TimeLeft(3600.0, True)}.get
    with progress.bar("rl", 9) as outer, progress.bar("evaluate", 5) as inner:
        inner.update(5, {"score": 0.75})
        for step in (1, 2, 3):
            clock[0] += 10
            outer.update(step, {"reward": 0.5})
        progress.say("checkpoint saved")
    text = out.getvalue()
    seen = (
        "rl",
        "evaluate",
        "3/9",
        "5/5",
        "10.0 s/step",
        "1:00 left (about 61 min in all)",
        "reward 0.5",
        "score 0.75",
    )
    for part in (*seen, "checkpoint saved"):
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
