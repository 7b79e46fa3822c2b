"""How long a run will take, from phases with made-up times."""

import dataclasses

import pytest

from lam_jax.runs.time_left import Schedule, ScheduledPhase, about

PHASES = (
    ScheduledPhase("data", "data"),
    ScheduledPhase("sft_help", "sft", 100),
    ScheduledPhase("rl_help", "rl", 20),
    ScheduledPhase("scores_help", "scores"),
    ScheduledPhase("sft_play", "sft", 50),
    ScheduledPhase("rl_play", "rl", 20),
    ScheduledPhase("scores_play", "scores"),
    ScheduledPhase("report", None),
)


@dataclasses.dataclass(frozen=True)
class Took:
    seconds: float
    compile_seconds: float = 0.0
    steps: int | None = None


def test_nothing_is_said_before_every_kind_was_measured():
    done = {}
    schedule = Schedule(PHASES, done)
    assert schedule.begins("data") == "phase 1 of 8: data"
    done["data"] = Took(3)
    done["sft_help"] = Took(130, 30, 100)
    done["rl_help"] = Took(400, 100, 20)
    assert schedule.after("rl_help") is None, "scores were never measured"
    assert schedule.begins("scores_help") == "phase 4 of 8: scores_help"
    done["scores_help"] = Took(60)
    # Half as many steps: 30 s to compile and 50 of the 100 s; then the same RL, the same scores, and the report.
    assert schedule.after("scores_help") == pytest.approx(80 + 400 + 60)
    assert schedule.begins("sft_play") == "phase 5 of 8: sft_play, about 9 min left"
    assert schedule.after("scores_play") == 0
    assert schedule.begins("report") == "phase 8 of 8: report, about 10 s left"


def test_a_phase_that_was_resumed_in_the_middle_counts_by_its_steps():
    """5 of its 20 steps were done by the run that completed it."""
    done = {"rl_help": Took(60, 10, 5), "scores_help": Took(1), "sft_help": Took(10, 0, 100)}
    assert Schedule(PHASES, done).after("sft_play") == pytest.approx(10 + 50 / 5 * 20 + 1)


def test_steps_that_were_not_recorded_say_nothing():
    done = {"rl_help": Took(60, 10, None), "scores_help": Took(1)}
    assert Schedule(PHASES, done).after("sft_play") is None


def test_other_phases_are_not_counted():
    schedule = Schedule(PHASES, {})
    assert schedule.begins("mine") is None
    assert schedule.after("mine") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "10 s"),
        (44, "40 s"),
        (89, "90 s"),
        (95, "2 min"),
        (250, "4 min"),
        (5300, "88 min"),
        (9000, "2.5 h"),
        (7200, "2 h"),
    ],
)
def test_durations_are_rough(seconds, text):
    assert about(seconds) == f"about {text}"
