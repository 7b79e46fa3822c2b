"""Run folders: stages are complete or not there, whatever kills the process."""

import dataclasses
import errno
import functools
import io
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from lam_jax import errors
from lam_jax.cli import exit_code, is_expected
from lam_jax.errors import (
    BadSettingError,
    LamJaxError,
    NoSpaceError,
    OtherConfigurationError,
    RunFolderBusyError,
    UnwritableFolderError,
)
from lam_jax.hosts.compilation import CompileClock
from lam_jax.runs.jsonl import BrokenLinesError
from lam_jax.runs.metrics import comparable, read_metrics
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run
from lam_jax.runs.time_left import ScheduledPhase
from lam_jax.values import differences, encode, fingerprint

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)
    schedule: object = math.cos


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    inner: Inner = Inner()


def open_run(folder, config=None):
    return Run(folder, config or Config(), Progress(enabled=False))


def test_complete_stage_is_restored_and_not_run_again(tmp_path):
    calls = []

    def first():
        calls.append("first")
        return {"w": jnp.arange(3.0)}, {"score": 0.5}

    for _ in range(2):
        with open_run(tmp_path / "run") as run:
            one = run.phase("one", first, like={"w": jnp.zeros(3)})
            total = float(one.tree["w"].sum())
            two = run.phase("two", functools.partial(lambda total: (None, {"sum": total}), total))
    assert calls == ["first"]
    assert one.resumed
    np.testing.assert_array_equal(one.tree["w"], [0, 1, 2])
    assert (one.record, two.record) == ({"score": 0.5}, {"sum": 3.0})
    assert [row["name"] for row in run.timings()] == ["one", "two"]


def test_failing_stage_leaves_nothing(tmp_path):
    with open_run(tmp_path / "run") as run:
        with pytest.raises(ZeroDivisionError):
            run.phase("one", lambda: 1 / 0)
        assert list(run.phases.iterdir()) == []


def test_seconds_and_compile_seconds_are_recorded(tmp_path):
    def work():
        value = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T + time.monotonic_ns() % 97)(jnp.ones((9, 9)))
        return {"w": value}, {}

    with open_run(tmp_path / "run") as run:
        result = run.phase("one", work, like={"w": jnp.ones((9, 9))})
    assert 0 < result.compile_seconds < result.seconds
    with open_run(tmp_path / "run") as run:
        again = run.phase("one", work, like={"w": jnp.ones((9, 9))})
    assert (again.seconds, again.compile_seconds) == (result.seconds, result.compile_seconds)


def test_phases_are_announced_with_their_place_and_restored_ones_are_not(tmp_path):
    """The third is of the kind of the first, which did its last 3 of 5 steps."""
    phases = (ScheduledPhase("one", "train", 5), ScheduledPhase("two", None), ScheduledPhase("three", "train", 4))

    def work(run, name):
        with run.progress.bar(name, 5, 2) as bar:
            bar.update(5)
        return None, {}

    printed = []
    for names in (("one", "two"), ("one", "two", "three")):
        out = io.StringIO()
        with Run(tmp_path / "run", {}, Progress(Console(file=out, width=99))) as run:
            run.follow(phases)
            for name in names:
                run.phase(name, functools.partial(work, run, name))
        printed.append([line for line in out.getvalue().splitlines() if line.startswith("phase")])
        assert run.results["one"].steps == 3
    assert printed == [
        ["phase 1 of 3: one", "phase 2 of 3: two, about 10 s left"],
        ["phase 3 of 3: three, about 10 s left"],
    ]


def test_compile_clock_stops_with_its_block():
    with CompileClock() as clock:
        pass
    jax.jit(lambda x: x * 3 + time.monotonic_ns() % 97)(jnp.ones(7))
    assert clock.seconds == 0


def test_folder_of_another_configuration_is_refused_with_the_entries(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.phase("one", lambda: ({}, {}))
    other = Config(seed=1, inner=Inner(lr=2e-3))
    with pytest.raises(OtherConfigurationError) as error:
        open_run(tmp_path / "run", other)
    assert "seed: found 0, expected 1; inner.lr: found 0.001, expected 0.002." in str(error.value)
    open_run(tmp_path / "run").close()


def test_a_start_that_made_nothing_does_not_bind_the_folder(tmp_path):
    open_run(tmp_path / "run").close()
    open_run(tmp_path / "run", Config(seed=1)).close()
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["config"]["seed"] == 1
    assert "changes" not in content
    with open_run(tmp_path / "run", Config(seed=1)), pytest.raises(RunFolderBusyError):
        open_run(tmp_path / "run", Config(seed=2))
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == content


@pytest.mark.parametrize("left", ["phase_checkpoints/stage1_inverse/4/state", "metrics.jsonl"])
def test_what_an_unfinished_phase_left_binds_the_folder(tmp_path, left):
    open_run(tmp_path / "run").close()
    file = tmp_path / "run" / left
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"phase": "one", "step": 1}\n')
    with pytest.raises(OtherConfigurationError, match="seed: found 0, expected 1"):
        open_run(tmp_path / "run", Config(seed=1))


def test_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OtherConfigurationError, match=r"holds no run \(no config.json\)"):
        open_run(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(OtherConfigurationError, match="not the configuration of a run"):
        open_run(tmp_path)


def test_second_process_is_kept_out(tmp_path):
    with open_run(tmp_path / "run"), pytest.raises(RunFolderBusyError, match="in use by another process"):
        open_run(tmp_path / "run")
    open_run(tmp_path / "run").close()


def test_damaged_stage_is_run_again_loudly(tmp_path, caplog):
    def stage(run):
        return run.phase("one", lambda: ({"w": jnp.ones(3)}, {}), like={"w": jnp.zeros(3)})

    with open_run(tmp_path / "run") as run:
        stage(run)
    (tmp_path / "run" / "phases" / "one" / "record" / "metadata").write_text("{}")
    with caplog.at_level(logging.ERROR, "lam_jax"), open_run(tmp_path / "run") as run:
        assert not stage(run).resumed
    assert "damaged checkpoint" in caplog.text
    assert "run again" in caplog.text
    with open_run(tmp_path / "run") as run:
        assert stage(run).resumed


@pytest.mark.parametrize("line", [b"garbage", b"\xff\xfe", b"[1, 2]", b'{"loss": 1.0}', b"3"])
def test_a_garbage_line_of_metrics_is_one_message(tmp_path, line):
    with open_run(tmp_path / "run") as run:
        run.metrics.write("one", 1, {"loss": 1.0})
    file = tmp_path / "run" / "metrics.jsonl"
    good = file.read_bytes()
    file.write_bytes(good + line + b"\n" + good)
    with pytest.raises(
        BrokenLinesError, match=r"metrics\.jsonl: line 2: found .*, expected .*Delete that line"
    ) as caught:
        open_run(tmp_path / "run")
    assert (is_expected(caught.value), exit_code(caught.value)) == (True, 1)
    file.write_bytes(good)
    open_run(tmp_path / "run").close()


def test_a_negative_save_every_is_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(BadSettingError, match="save_every: found -3, expected a number of updates, or 0") as caught:
        Run(tmp_path / "run", Config(), Progress(enabled=False), save_every=-3)
    assert exit_code(caught.value) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EACCES, "Give this user the right to write there"), (errno.EROFS, "mounted read-only"), (errno.EIO, "")],
)
def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path, monkeypatch, number, advice):
    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UnwritableFolderError) as caught:
        open_run(tmp_path / "deep" / "run")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/deep/run: cannot be used as an output folder: {os.strerror(number)}")
    assert advice in message
    assert message.endswith("Choose another one.")
    assert exit_code(caught.value) == 16


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UnwritableFolderError, match=r"Not a directory.*Choose another one"):
            open_run(folder)


def test_a_full_disk_is_said_to_be_full(tmp_path, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(NoSpaceError, match="run: no space to open the run"):
        open_run(tmp_path / "run")


def test_a_phase_keeps_the_environment_of_the_process_that_ran_it(tmp_path):
    def result(name, device):
        with Run(tmp_path / "run", Config(), Progress(enabled=False), environment=lambda: {"device": device}) as run:
            return run.phase(name, lambda: (None, {})).environment

    assert result("one", "cpu") == {"device": "cpu"}
    assert result("two", "TPU v5e") == {"device": "TPU v5e"}
    assert result("one", "TPU v5e") == {"device": "cpu"}


def test_stage_names_are_checked(tmp_path):
    with open_run(tmp_path / "run") as run:
        with pytest.raises(ValueError, match=r"Phase name '\.\./x'"):
            run.phase("../x", lambda: (None, {}))
        run.phase("one", lambda: (None, {}))
        with pytest.raises(ValueError, match="already asked for"):
            run.phase("one", lambda: (None, {}))


def test_fingerprint_covers_every_field():
    assert fingerprint(Config()) == fingerprint(Config())
    assert fingerprint(Config(inner=Inner(schedule=math.sin))) != fingerprint(Config())
    assert encode(Config())["inner"]["sizes"] == [1, 2]
    assert differences({"a": 1, "old": 2}, {"a": 1, "new": 3}) == [
        "new: found 'nothing', expected 3",
        "old: found 2, expected 'nothing'",
    ]


def test_exit_codes_are_distinct_and_documented():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, LamJaxError)]
    codes = [c.exit_code for c in classes]
    assert len(set(codes)) == len(codes)
    assert all(f"| {c.exit_code} |" in errors.__doc__ for c in classes)
    assert 0 not in codes


CHILD = """
import sys, time
import jax, jax.numpy as jnp
from pathlib import Path
from lam_jax.train.loop import Phase, fit
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run
from lam_jax.runs.tools import Tools
from lam_jax.train.state import TrainState

optimiser = make_optimiser(OptimiserConfig(0.1), 5)

@jax.jit
def step(state, batch):
    loss, gradients = jax.value_and_grad(lambda t: jnp.sum(jnp.square(t["w"] - batch)))(state.trainable)
    state, metrics = state.apply_gradients(gradients, optimiser)
    return state, {"loss": loss, **metrics}

def train(run, name, weights, target):
    print("start", name, flush=True)
    def slowly():
        for _ in range(5):
            time.sleep(0.03)
            yield jnp.full(20000, target)
    state = TrainState.create(weights, optimiser, jax.random.key(0))
    return fit(Phase(name, 5), state, step, slowly(), Tools(run.metrics, run.progress)).state.trainable, {}

with Run(Path(sys.argv[1]), {"seed": 0}, Progress(enabled=False)) as run:
    weights = {"w": jnp.zeros(20000)}
    for index in range(4):
        name = f"stage{index}"
        weights = run.phase(name, lambda: train(run, name, weights, float(index)), like=weights).tree
print("sum", float(weights["w"].sum()), flush=True)
"""


def child(folder):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_killed_at_any_moment_it_finishes_and_loses_at_most_the_stage_in_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["child", str(tmp_path / "whole")])
    exec(CHILD, {})
    expected = capsys.readouterr().out
    stages = [f"start stage{index}" for index in range(4)]
    assert expected.splitlines()[:4] == stages

    started = []
    # Killed that many seconds after that stage was seen to start: in the middle, and about when it saves.
    for stage, delay in (("start stage1", 0.1), ("start stage2", 0.22)):
        with child(tmp_path / "run") as process:
            for line in process.stdout:
                started.append(line.strip())
                if line.strip() == stage:
                    time.sleep(delay)
                    process.send_signal(signal.SIGKILL)
    last = child(tmp_path / "run")
    found, complaints = last.communicate()
    assert last.returncode == 0, complaints
    started += [line for line in found.splitlines() if line.startswith("start")]

    assert found.splitlines()[-1] == expected.splitlines()[-1]
    assert set(started) == set(stages)
    assert started == sorted(started), "no complete stage was run again after a later one had started"
    assert len(started) <= len(stages) + 2
    logged = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "run")]
    assert [comparable(record) for record in logged[0]] == [comparable(record) for record in logged[1]]
    assert sorted(p.name for p in (tmp_path / "run" / "phases").iterdir()) == ["stage0", "stage1", "stage2", "stage3"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"] == {"seed": 0}
