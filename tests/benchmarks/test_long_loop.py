"""The table of a long RL phase from its metrics and from looks at its memory."""

import pytest

from benchmarks.long_loop import Config, parts_of


def _records(count: int, seconds: float = 2.0) -> list[dict[str, float]]:
    return [{"step": i + 1, "time": 100.0 + seconds * (i + 1), "step_s": seconds} for i in range(count)]


def test_a_part_has_the_largest_memory_seen_during_its_steps():
    # 20 steps of 2 s from 100 s on; a part has two steps, 4 s.
    looks = [(99.0, 900), *((100.5 + i, 1_000 + 10 * i) for i in range(40)), (141.0, 5_000)]
    parts = parts_of(_records(20), looks)
    assert [part["to_step"] for part in parts] == list(range(2, 21, 2))
    # The looks in part n are those at 100.5 + 4 n to 103.5 + 4 n.
    assert [part["memory"] for part in parts] == [1_030 + 40 * n for n in range(10)]


def test_a_slow_step_among_many_does_not_move_a_part():
    records = _records(100, 1.0)
    records[3]["step_s"] = 60.0
    parts = parts_of(records, [(100.5 + i, 1) for i in range(100)])
    assert [part["step_s"] for part in parts] == [1.0] * 10


def test_too_few_looks_are_told():
    with pytest.raises(ValueError, match="No look at the memory between steps 2 and 4: lower --every"):
        parts_of(_records(20), [(101.0, 1)])


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="--steps 20: ten parts of fewer than 10 steps"):
        Config(steps=20)
