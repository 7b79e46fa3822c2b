"""What is logged is safe on disk, comparable between runs, and cut back on resume."""

import json
import os

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lam_jax.errors import NoSpaceError
from lam_jax.runs.metrics import MetricsWriter, comparable, read_metrics


def test_records_hold_the_scalars_and_are_on_disk_at_once(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.begin("stage1_inverse")
        returned = writer.write("stage1_inverse", 1, {"loss": np.float32(0.5), "tokens_per_s": 9.0, "rows": 4})
        line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == returned
    assert comparable(line) == {"phase": "stage1_inverse", "step": 1, "loss": 0.5, "rows": 4}
    assert set(line) - set(comparable(line)) == {"time", "tokens_per_s"}


def test_resume_drops_later_steps_of_that_phase_only(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for phase in ("a", "b"):
            for step in (1, 2, 3):
                writer.write(phase, step, {"loss": float(step)})
    with MetricsWriter(tmp_path) as writer:
        writer.begin("b", 1)
        writer.write("b", 2, {"loss": 20.0})
        writer.begin("c", 0)
    found = [(r["phase"], r["step"], r["loss"]) for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert found == [("a", 1, 1.0), ("a", 2, 2.0), ("a", 3, 3.0), ("b", 1, 1.0), ("b", 2, 20.0)]


def test_line_cut_off_by_a_kill_is_dropped(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("a", 1, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "a", "step": 2, "lo')
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    with MetricsWriter(tmp_path) as writer:
        writer.write("a", 2, {"loss": 2.0})
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"phase": "a", "step": 1}\n{"pha\n{"phase": "a", "step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2: found"):
        MetricsWriter(tmp_path)


def test_tensorboard_shows_the_scalars_of_the_last_run_of_a_phase(tmp_path):
    for value in (1.0, 5.0):
        with MetricsWriter(tmp_path) as writer:
            writer.begin("a")
            writer.write("a", 1, {"loss": value, "bad": float("nan")})
    events = EventAccumulator(str(tmp_path / "tensorboard" / "a")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 5.0)]


def test_non_finite_values_stay_json(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("a", 1, {"loss": float("inf")})
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] is None


def test_bad_metrics_are_named(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match=r"'usage' of phase a: found .*expected a scalar"):
            writer.write("a", 1, {"usage": np.ones(3)})
        with pytest.raises(ValueError, match="'step' is reserved"):
            writer.write("a", 1, {"step": 3})


def test_parts_of_a_reward_are_no_times_whatever_they_are_called():
    assert comparable({"reward/steps_s": 1.0, "reward_s": 2.0, "time": 3.0}) == {"reward/steps_s": 1.0}


def test_full_disk_keeps_whole_lines(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with MetricsWriter(tmp_path) as writer:
        writer.write("a", 1, {"loss": 1.0})
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(NoSpaceError, match="no space to log"):
            writer.write("a", 2, {"loss": 2.0})
        monkeypatch.undo()
        assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1]
        writer.write("a", 2, {"loss": 3.0})
    assert [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 3.0]


def test_processes_other_than_the_first_write_nothing(tmp_path):
    with MetricsWriter(tmp_path / "run", enabled=False) as writer:
        writer.begin("a")
        writer.write("a", 1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()
