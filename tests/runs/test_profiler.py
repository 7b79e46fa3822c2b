"""The trace of a few steps of one phase."""

import gzip
import json

import pytest

from lam_jax.runs.profiler import Profiler
from tests.train.made_phase import train


def test_three_steps_are_traced_for_tensorboard_and_perfetto(tmp_path):
    train(tmp_path, every=0, profiler=Profiler(tmp_path / "profile", "phase", skip=2, steps=3))
    (folder,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb"))
    trace = json.loads(gzip.decompress((folder / "perfetto_trace.json.gz").read_bytes()))
    steps = {event["args"]["step_num"] for event in trace["traceEvents"] if "step_num" in event.get("args", {})}
    assert {int(step) for step in steps} == {3, 4, 5}


def test_a_phase_that_ends_early_still_leaves_a_trace_and_others_none(tmp_path):
    profiler = Profiler(tmp_path / "profile", "short", skip=0, steps=9)
    with profiler.step("other", 1):
        pass
    assert not (tmp_path / "profile").exists()
    with profiler.step("short", 1):
        pass
    profiler.close()
    profiler.close()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_impossible_spans_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found skip=0 and steps=0"):
        Profiler(tmp_path, "phase", skip=0, steps=0)
