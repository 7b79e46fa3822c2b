"""`lam-jax train own` with a tiny random Qwen3-VL on a mesh of 2 x 2 x 2: every stage, RL in two spaces, exported."""

import json
import sys

import numpy as np
import pytest

import lam_jax
from lam_jax.agents.export import export
from lam_jax.cli import main
from tests.end_to_end import qwen3_model
from tests.end_to_end.own_files import flags, write_files
from tests.end_to_end.test_qwen3_run import FLAGS, QUESTION

pytestmark = pytest.mark.sharding


def test_all_stages_on_eight_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = qwen3_model.write_model(tmp_path / "model")
    files = flags(write_files(tmp_path, "qwen3_mesh_score"))
    args = ["train", "own", *files, "--quick", "--model", str(model), *FLAGS, "--out", str(tmp_path / "run")]
    assert main([*args, "--mesh", "2", "2", "2"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    spaces = ("latent", "token")
    assert {(r["space"], r["phase"]) for r in results["scores"]} >= {(s, p) for s in spaces for p in ("sft", "rl")}
    assert all(np.isfinite(row["mean"]) for row in results["scores"])
    export(tmp_path / "run", tmp_path / "agent", space="latent")
    assert lam_jax.load(tmp_path / "agent").answer(QUESTION) is not None
