"""The demo from end to end: it finishes, resumes after kill -9, and repeats itself exactly."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lam_jax.pipeline import phases_of
from lam_jax.runs.jsonl import read_lines
from lam_jax.runs.metrics import comparable, read_metrics
from tests.end_to_end.quick_demo import quick_recipe
from tests.quick_xla import QUICK_ENVIRONMENT

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.end_to_end.quick_demo"]


def start(out: Path, cache: Path, log: Path) -> subprocess.Popen:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment |= QUICK_ENVIRONMENT  # one device, as a user has
    with log.open("ab") as file:
        return subprocess.Popen([*COMMAND, str(out), "3"], cwd=ROOT, env=environment, stdout=file, stderr=file)


def finish(process: subprocess.Popen, log: Path) -> None:
    assert process.wait(timeout=1800) == 0, log.read_text()[-4000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path, str]:
    """An uninterrupted run, and one killed three times at random moments; both with seed 3."""
    folder = tmp_path_factory.mktemp("demo")
    whole, broken, cache, log = (folder / name for name in ("whole", "broken", "cache", "log"))
    finish(start(whole, cache, log), log)
    moments = random.Random(0)
    for _ in range(3):
        process = start(broken, cache, log)
        time.sleep(moments.uniform(8, 25))
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = folder / "again"
    finish(start(broken, cache, again), again)
    return whole, broken, again.read_text()


def test_the_report_shows_both_spaces(runs):
    whole, _, _ = runs
    results = json.loads((whole / "results.json").read_text())
    assert {(row["space"], row["phase"]) for row in results["scores"]} == {
        (space, phase) for space in ("latent", "token") for phase in ("sft", "rl")
    }
    assert {row["space"] for row in results["gain"]} == {"latent", "token"}
    page = (whole / "report.html").read_text()
    assert "data:image/png" in page
    assert results["samples"][0]["reference"][:20] in page


def test_killed_and_resumed_equals_uninterrupted(runs):
    whole, broken, _ = runs
    first, second = (
        [comparable(record) for record in read_metrics(folder / "metrics.jsonl")] for folder in (whole, broken)
    )
    assert len(first) > 20
    assert first == second
    scores = [json.loads((folder / "results.json").read_text())["scores"] for folder in (whole, broken)]
    assert scores[0] == scores[1]
    shown = [[comparable(r) for r in read_lines(folder / "samples.jsonl")] for folder in (whole, broken)]
    assert [(r["phase"], r["step"]) for r in shown[0]] == [
        (f"rl_{space}_help", step) for space in ("latent", "token") for step in (1, 2) for _ in range(4)
    ]
    assert shown[0] == shown[1]
    assert (broken / "samples.html").exists()


def test_phases_are_those_that_the_recipe_announces(runs):
    whole, _, _ = runs
    results = json.loads((whole / "results.json").read_text())
    assert [phase["name"] for phase in results["phases"]] == list(phases_of(quick_recipe(3)))


def test_complete_phases_are_not_run_again(runs):
    _, _, log = runs
    assert "restored" in log


def test_a_finished_run_is_read(runs, tmp_path):
    whole, _, _ = runs
    before = (whole / "results.json").read_bytes()
    (whole / "report.html").unlink()
    log = tmp_path / "log"
    finish(start(whole, tmp_path / "cache", log), log)
    assert "All phases are complete." in log.read_text()
    assert "restored" not in log.read_text()
    assert (whole / "report.html").exists()
    assert (whole / "results.json").read_bytes() == before
