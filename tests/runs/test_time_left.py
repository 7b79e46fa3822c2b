"""How long a run will take, from phases with made-up times."""

import dataclasses

import pytest

from lam_jax.runs.time_left import Schedule, ScheduledPhase, TimeLeft, roughly

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


def test_time_is_said_as_far_as_its_kinds_were_measured():
    done = {}
    schedule = Schedule(PHASES, done)
    assert schedule.begins("data") == "phase 1 of 8: data"
    done["data"] = Took(3)
    assert schedule.begins("sft_help") == "phase 2 of 8: sft_help", "none like those to come was measured"
    assert schedule.after("sft_help") is None
    done["sft_help"] = Took(130, 30, 100)
    # Half as many steps: 30 s to compile and 50 of the 100 s.
    assert schedule.begins("rl_help") == "phase 3 of 8: rl_help, at least 80 s left"
    done["rl_help"] = Took(400, 100, 20)
    assert schedule.after("scores_help") == TimeLeft(80 + 400, False), "scores were never measured"
    done["scores_help"] = Took(60)
    # Then the same RL, the same scores, and the report.
    assert schedule.after("scores_help") == TimeLeft(80 + 400 + 60, True)
    assert schedule.begins("sft_play") == "phase 5 of 8: sft_play, about 9 min left"
    assert schedule.after("scores_play") == TimeLeft(0, True)
    assert schedule.begins("report") == "phase 8 of 8: report, about 10 s left"


def test_a_phase_that_was_resumed_in_the_middle_counts_by_its_steps():
    """5 of its 20 steps were done by the run that completed it."""
    done = {"rl_help": Took(60, 10, 5), "scores_help": Took(1), "sft_help": Took(10, 0, 100)}
    assert Schedule(PHASES, done).after("sft_play") == TimeLeft(10 + 50 / 5 * 20 + 1, True)


def test_steps_that_were_not_recorded_say_nothing():
    done = {"rl_help": Took(60, 10, None), "scores_help": Took(1)}
    assert Schedule(PHASES, done).after("sft_play") == TimeLeft(1, False)


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
    assert roughly(seconds) == text
