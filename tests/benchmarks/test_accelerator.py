"""The command for a device that is at hand for minutes, on the CPU at the smallest sizes."""

import json
import subprocess
import sys
import time

import pytest

from benchmarks.accelerator.profile import table
from benchmarks.accelerator.results import FILE, Results, read


def measure(folder, *arguments):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--preset", "tiny", "--out", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)


def figures(folder, item):
    return json.loads((folder / FILE).read_text())["items"][item]["figures"]


def test_measures_and_goes_on_where_it_stopped(tmp_path):
    done = measure(tmp_path, "--items", "device", "latent", "--minutes", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    found = figures(tmp_path, "latent")
    assert found["rollout.tokens_per_s"]["value"] == pytest.approx(4 * 8 / found["rollout.s"]["value"])
    assert found["decode.step_ms"]["floor"] > 0
    assert found["step.recompiled"]["value"] == found["rollout.recompiled"]["value"] == 0
    assert found["step.s"]["value"] > found["update.s"]["value"] > 0
    assert "kernels" in (tmp_path / "profiles" / "latent_update.txt").read_text()
    again = measure(tmp_path, "--items", "device", "latent")
    assert again.returncode == 0
    assert again.stdout.splitlines() == ["device: done before", "latent: done before"]
    assert figures(tmp_path, "latent") == found


def test_stops_in_time_and_leaves_out_what_does_not_fit(tmp_path):
    began = time.monotonic()
    done = measure(tmp_path, "--minutes", "0.1", "--items", "token", "stages")
    assert time.monotonic() - began < 60
    assert "token: stopped, time is up" in done.stdout
    assert "stages: left out" in done.stdout
    assert not read(tmp_path)["items"].get("token", {}).get("done")


def test_a_figure_is_on_the_disk_at_once_and_a_part_that_fails_does_not_end_the_item(tmp_path):
    results = Results(tmp_path, "latent")
    results.add("rollout.s", 2.5, "s", floor=1.0)
    with results.part("step"):
        raise RuntimeError("out of memory")
    results.add("prefill.s", 0.5, "s")
    later = Results(tmp_path, "latent")
    assert later.has("rollout.s", "prefill.s")
    assert not later.has("step.s")
    assert later.own["errors"] == {"step": "RuntimeError: out of memory"}
    with later.part("step"):
        later.add("step.s", 3.0, "s")
    assert not Results(tmp_path, "latent").own["errors"]


def test_golden_vectors_need_no_test_package():
    """On a machine that is lent there may be neither pytest nor torch."""
    code = "import sys; sys.modules['pytest'] = sys.modules['torch'] = None; import tests.parity.golden"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_file_in_the_folder_is_refused(tmp_path):
    (tmp_path / FILE).write_text("[]")
    done = measure(tmp_path, "--items", "device")
    assert done.returncode == 2
    assert "is no result of this command" in done.stderr


def test_kernels_are_summed_up_by_name_and_divided_by_steps():
    events = [("gemm_1", 0.002), ("gemm_1", 0.004), ("norm", 0.001)]
    lines = table(events, seconds=0.01, steps=2).splitlines()
    assert lines[0].startswith("0.0100 s, of them kernels 0.0070 s")
    assert lines[2].split() == ["3000.00", "85.7%", "1.00", "3000.00", "gemm_1"]
    assert lines[3].split() == ["500.00", "14.3%", "0.50", "1000.00", "norm"]
