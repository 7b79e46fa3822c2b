"""What docs/pods.md says, tiny and in two processes: convert, plan, train, go on after a kill, export, answer."""

import json
import shutil
import signal
import sys
import time

import pytest

import lam_jax
from lam_jax.cli import main
from lam_jax.recipe import Model
from lam_jax.recipes.settings import SHIPPED_MODEL
from lam_jax.runs.metrics import read_metrics
from tests.cli.test_cli import call
from tests.end_to_end.own_files import flags, write_files
from tests.processes.test_processes import assert_close, finish, launch


@pytest.mark.processes
def test_the_pod_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copytree(Model(SHIPPED_MODEL).path, tmp_path / "hugging_face")
    assert main(["convert", str(tmp_path / "hugging_face"), str(tmp_path / "model")]) == 0
    files = write_files(tmp_path, "made_score_pods")
    sizes = ["--image", "56", "84", "--codes", "16", "--quick", "--save-every", "1"]
    args = ["train", "own", *flags(files), "--model", str(tmp_path / "model"), *sizes]
    code, out, _ = call([*args, "--mesh", "1", "1", "1", "--dry-run", "--out", str(tmp_path / "unused")], capsys)
    assert code == 0
    assert "stage1_inverse" in out
    assert not (tmp_path / "unused").exists()

    def run(name, devices, processes, mesh=("auto",)):
        out = tmp_path / name
        return out, launch(out, "lam_jax", [*args, "--mesh", *mesh, "--out", str(out)], devices, processes)

    one = finish(*run("one", 8, 1, ("2", "2", "2")))
    folder, killed = run("two", 4, 2, ("2", "2", "2"))
    while not [r for r in read_metrics(folder / "metrics.jsonl") if r["phase"] == "stage3_joint"]:
        assert not any(process.poll() for process in killed), (tmp_path / "two_0.log").read_text()[-3000:]
        time.sleep(0.2)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert_close(finish(*run("two", 4, 2, ("2", "2", "2"))), one)
    finish(*run("auto", 4, 2))
    assert "mesh data" in (tmp_path / "auto_0.log").read_text()

    assert main(["export", str(tmp_path / "two"), str(tmp_path / "agent"), "--space", "latent"]) == 0
    row = lam_jax.Example("q", ({"role": "user", "content": "What colour is it?"},), (tmp_path / "0.png",))
    answers = [
        lam_jax.load(path, space="latent").generate([row])[0].answers[0] for path in (folder, tmp_path / "agent")
    ]
    assert answers[0] == answers[1]
    assert answers[0].actions
    output = tmp_path / "answers.jsonl"
    assert main(["generate", str(tmp_path / "agent"), "--input", files["task"], "--output", str(output)]) == 0
    assert len([json.loads(line) for line in output.read_text().splitlines()]) == 30
