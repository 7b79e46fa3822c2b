"""Launchers print what they would execute, and the remote lines are ones that a shell takes apart as meant."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments.launch import hosts, jobset
from lam_jax.parallel.processes import find_place

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "experiments" / "launch"
COMMAND = ["lam-jax", "demo", "--out", "runs/a b", "--mesh", "1", "16", "1"]


def remote(line: str) -> tuple[str, dict[str, str], list[str]]:
    """Host, settings and command of a printed ssh line."""
    words = shlex.split(line)
    assert words[:4] == ["ssh", "-tt", "-o", "BatchMode=yes"]
    inner = shlex.split(words[5])
    assert inner[:5] == ["cd", "/shared/my project", "&&", "exec", "env"]
    settings = dict(word.split("=", 1) for word in inner[6:] if word.startswith("LAM_JAX_"))
    return words[4], settings, inner[inner.index("lam-jax") :]


@pytest.mark.parametrize("kind", ["tpu", "explicit"])
def test_ssh_lines(kind, capsys):
    arguments = [
        "--kind",
        kind,
        "--hosts",
        "me@h0",
        "h1",
        "--folder",
        "/shared/my project",
        "--dry-run",
        "--",
        *COMMAND,
    ]
    assert hosts.main(arguments) == 0
    found = [remote(line) for line in capsys.readouterr().out.splitlines()]
    assert [host for host, _, _ in found] == ["me@h0", "h1"]
    for index, (_, settings, command) in enumerate(found):
        assert command == ["lam-jax", "watch", "--folder", "runs/heartbeats", "--", *COMMAND]
        place = find_place(settings)
        assert place.source == kind
        if kind == "explicit":
            assert (place.coordinator, place.count, place.index) == ("h0:8476", 2, index)


def test_ssh_runs_everywhere_and_returns_the_first_error(capfd):
    lines = [["sh", "-c", f"echo on {i}; exit {code}"] for i, code in enumerate((0, 10, 13))]
    assert hosts.run(lines, ["h0", "h1", "h2"]) == 10
    assert sorted(capfd.readouterr().out.splitlines()) == ["[h0] on 0", "[h1] on 1", "[h2] on 2"]


def test_jobset_manifest(capsys):
    flags = {"name": "first", "image": "registry/lam:1", "claim": "disk", "accelerator": "tpu-v5-lite-podslice"}
    arguments = [word for name, value in flags.items() for word in (f"--{name}", value)]
    assert jobset.main([*arguments, "--topology", "4x4", "--dry-run", "--", *COMMAND]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# kubectl apply -f -\n")
    assert "$" not in text
    job = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (4, 4)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    (container,) = pod["containers"]
    assert container["command"][:2] == ["lam-jax", "watch"]
    assert container["args"] == COMMAND
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    assert find_place({entry["name"]: entry["value"] for entry in container["env"]}).source == "tpu"
    with pytest.raises(SystemExit):
        jobset.main([*arguments, "--topology", "3x3", "--", *COMMAND])
    assert "expected sizes like 4x4" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["slurm.sbatch", "one_host.sh"])
def test_shell_scripts(script):
    environment = {**os.environ, "DRY_RUN": "1", "SLURM_NNODES": "4", "GPUS": "0,1"}
    run = [["bash", str(LAUNCH / script), *words] for words in (COMMAND, [])]
    good, empty = (subprocess.run(r, env=environment, capture_output=True, text=True, check=False) for r in run)
    assert good.returncode == 0, good.stderr
    words = shlex.split(good.stdout)
    assert words[words.index("--", words.index("watch")) + 1 :] == COMMAND
    expected = ["srun", "--nodes", "4", "--ntasks", "4"] if "slurm" in script else ["env", "CUDA_VISIBLE_DEVICES=0,1"]
    assert words[: len(expected)] == expected
    assert empty.returncode == 2
    assert "no command given" in empty.stderr


def test_documented_lines_are_ones_that_the_launchers_take(capsys):
    lines = [part.split("`")[1] for part in (LAUNCH / "README.md").read_text().splitlines() if "| `python" in part]
    assert len(lines) == 3
    for line in lines:
        module, *words = shlex.split(line)[2:]
        launcher = {"experiments.launch.hosts": hosts, "experiments.launch.jobset": jobset}[module]
        cut = words.index("--")
        assert launcher.main([*words[:cut], "--dry-run", *words[cut:]]) == 0
        assert json.dumps(words[cut + 1 :]) in capsys.readouterr().out or launcher is hosts
