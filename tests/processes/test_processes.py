"""Two processes with four devices each train like one process with eight, and their run goes on in one with two.

A small case runs by default, in tests/soak/test_soak.py: two processes, one of them killed, end like one process.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lam_jax.runs.jsonl import read_lines
from lam_jax.runs.metrics import comparable, read_metrics
from tests.host_devices import several_devices

ROOT = Path(__file__).parents[2]
EVERYTHING = ("inverse", "projector", "joint", "cloning", "sft_latent", "sft_token", "rl_latent", "rl_token")


def launch(folder: Path, module: str, arguments: list[str], devices: int, processes: int) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    base = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        **several_devices(devices, processes=processes),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # little is computed: compiling takes most of the time
        "PYTHONPATH": str(ROOT),
    }
    started = []
    for index in range(processes):
        place = {"LAM_JAX_COORDINATOR": address, "LAM_JAX_PROCESSES": str(processes), "LAM_JAX_PROCESS": str(index)}
        command = [sys.executable, "-m", module, *arguments]
        environment = base | (place if processes > 1 else {})
        with (folder.parent / f"{folder.name}_{index}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        started.append(process)
    return started


def finish(folder: Path, started: list[subprocess.Popen]) -> list[dict]:
    codes = [process.wait(timeout=3600) for process in started]
    logs = "\n".join(file.read_text()[-3000:] for file in folder.parent.glob(f"{folder.name}_*.log"))
    assert not any(codes), logs
    return [comparable(record) for record in read_metrics(folder / "metrics.jsonl")]


def start(folder: Path, mesh: str, devices: int, phases: Sequence[str], processes: int = 1) -> list[subprocess.Popen]:
    return launch(folder, "tests.processes.child", [str(folder), mesh, *phases], devices, processes)


def train(folder: Path, *args, **kwargs) -> list[dict]:
    return finish(folder, start(folder, *args, **kwargs))


def assert_close(found: list[dict], expected: list[dict]) -> None:
    assert [(r["phase"], r["step"]) for r in found] == [(r["phase"], r["step"]) for r in expected]
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            # Of equal rewards only the KL term's rounding is left as gradient, and Adam scales that up.
            is_rounding = name == "update_norm" and other["grad_norm"] < 1e-6
            if name != "phase" and not is_rounding:
                where = f"{other['phase']} step {other['step']} {name}"
                np.testing.assert_allclose(one[name], value, rtol=2e-4, atol=2e-6, err_msg=where)


def assert_shown_alike(found: Path, expected: Path, phases: Sequence[str]) -> None:
    """Sample answers and dumped rollouts: the same steps, rows, texts and rewards, each once."""
    rl = [f"rollouts/{phase}.jsonl" for phase in phases if phase.startswith("rl_")]
    for name in ("samples.jsonl", *rl):
        one, other = (list(read_lines(folder / name)) for folder in (found, expected))
        assert len(one) == len(other) > 0
        for record, wanted in zip(one, other):
            assert_alike(comparable(record), comparable(wanted))


def assert_alike(found: Any, expected: Any) -> None:
    """Equal, but for rounding."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_alike(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_alike(one, other)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    else:
        assert found == expected


@pytest.mark.processes
def test_every_stage_and_rl_have_the_losses_of_one_process(tmp_path):
    one = train(tmp_path / "one", "2x2x2", 8, EVERYTHING)
    two = train(tmp_path / "two", "2x2x2", 4, EVERYTHING, processes=2)
    assert len(one) == 2 * len(EVERYTHING)
    assert_close(two, one)
    assert_shown_alike(tmp_path / "two", tmp_path / "one", EVERYTHING)


@pytest.mark.processes
@pytest.mark.parametrize("rollouts", ["1x2x4", "1x1x2x4"])
def test_rollouts_of_two_processes_on_a_mesh_of_their_own(tmp_path, rollouts):
    """The policy goes there and the rollouts come back between devices of both; numbers are those of one mesh."""
    one = train(tmp_path / "one", "2x2x2", 8, ["rl_latent"])
    two = train(tmp_path / "two", f"2x2x2/{rollouts}", 4, ["rl_latent"], processes=2)
    assert_close(two, one)
    assert_shown_alike(tmp_path / "two", tmp_path / "one", ["rl_latent"])


@pytest.mark.processes
@pytest.mark.parametrize(("phase", "update"), [("joint", 1), ("rl_latent", 3)])
def test_two_processes_go_on_in_one_with_two_devices(tmp_path, phase, update):
    """RL is stopped between the two updates of its second rollout."""
    whole = train(tmp_path / "whole", "1x1x1", 1, [phase])
    train(tmp_path / "run", "2x2x2", 4, [f"{phase}:{update}"], processes=2)
    assert list((tmp_path / "run" / "phase_checkpoints" / phase).iterdir())
    log = tmp_path / "run_0.log"
    stopped = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"stopped"')]
    assert f"after update {update}," in stopped[0]["stopped"]
    assert_close(train(tmp_path / "run", "1x2x1", 2, [phase]), whole)
    if phase.startswith("rl_"):
        assert_shown_alike(tmp_path / "run", tmp_path / "whole", [phase])


@pytest.mark.processes
def test_the_demo_in_two_processes(tmp_path):
    """The same losses and rewards as in one process, and a report that is written once."""
    runs = {}
    for name, devices, processes in (("one", 8, 1), ("two", 4, 2)):
        folder = tmp_path / name
        arguments = [str(folder), "3", "2x2x2"]
        runs[name] = finish(folder, launch(folder, "tests.end_to_end.quick_demo", arguments, devices, processes))
    one, two = runs["one"], runs["two"]
    assert {record["phase"] for record in one} >= {
        "stage1_inverse",
        "stage4_cloning",
        "rl_latent_help",
        "rl_token_help",
    }
    assert_close(two, one)
    assert (tmp_path / "two" / "report.html").exists()
    shown = [[(r["phase"], r["step"], r["id"]) for r in read_lines(tmp_path / n / "samples.jsonl")] for n in runs]
    assert shown[0] == shown[1]
    assert (tmp_path / "two" / "samples.html").exists()


@pytest.mark.processes
def test_two_processes_in_brief(tmp_path):
    one = start(tmp_path / "one", "2x1x1", 2, ["cloning"])
    two = start(tmp_path / "two", "2x1x1", 1, ["cloning"], processes=2)
    assert_close(finish(tmp_path / "two", two), finish(tmp_path / "one", one))
    assert not (tmp_path / "two" / "phase_checkpoints" / "cloning").exists()


@pytest.mark.processes
def test_the_first_rl_step_of_the_pod_page(tmp_path):
    """On the shipped model, in two processes, with two updates of each rollout."""
    flags = ["--steps", "1", "--prompts", "4", "--samples", "4", "--length", "16", "--update-lengths", "8"]
    sizes = ["--epochs", "2", "--codes", "16", "--inverse-layers", "1", "--policy-layers", "2", "--mesh", "2", "2", "1"]
    folder = tmp_path / "run"
    arguments = ["--out", str(folder), *flags, *sizes]
    records = finish(folder, launch(folder, "experiments.first_rl_step", arguments, devices=2, processes=2))
    steps = [record for record in records if "loss" in record]  # the others are validation before and after
    assert [(record["phase"], record["step"]) for record in steps] == [("rl_latent_help", 1)]
    assert np.isfinite(steps[0]["loss"])
    assert (folder / "phase_checkpoints").exists()


@pytest.mark.processes
def test_a_process_may_compile_for_longer_than_gloo_waits_for_a_connection(tmp_path):
    """Which is 30 s."""
    started = launch(tmp_path / "run", "tests.processes.apart", ["40", "2x2x1"], devices=2, processes=2)
    codes = [process.wait(timeout=600) for process in started]
    logs = [(tmp_path / f"run_{index}.log").read_text() for index in range(2)]
    assert codes == [0, 0], logs
    assert all("sums {42}" in log for log in logs)


@pytest.mark.processes
def test_each_answer_is_scored_by_one_process_and_known_to_all(tmp_path):
    """A judge is paid once, and no process goes on with verdicts of its own."""
    folder = tmp_path / "scores"
    folder.mkdir()
    codes = [process.wait(timeout=600) for process in launch(folder, "tests.processes.scoring", [str(folder)], 1, 2)]
    assert not any(codes), "\n".join(file.read_text()[-3000:] for file in tmp_path.glob("scores_*.log"))
    first, second = (json.loads((folder / f"{i}.json").read_text()) for i in range(2))
    assert (first["asked"], second["asked"]) == (["0", "2", "4"], ["1", "3"])
    assert first["scored"] == second["scored"]
    assert [(s["row"], s["sample"]) for s in first["scored"]] == [(str(i), g) for i in range(5) for g in range(2)]
    assert [s["verdict"]["scores"].get("a") for s in first["scored"][::2]] == [[0, 3], [1, 3], [2, 3], None, [4, 3]]
    assert first["scored"][7]["verdict"] == {"scores": {}, "error": "3/1", "parts": {}, "kind": "timeout"}
