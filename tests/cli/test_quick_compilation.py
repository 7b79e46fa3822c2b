"""Which commands compile quickly, and that they do before jax has found its devices."""

import importlib

import pytest

from lam_jax import pipeline
from lam_jax.cli import main
from lam_jax.recipes import demo

OWN = ["train", "own", "--task", "t.jsonl", "--paired", "p.json", "--reward", "similarity"]


@pytest.mark.parametrize(
    ("command", "quickly"),
    [
        (["demo"], True),
        (["train", "demo"], True),
        ([*OWN, "--quick"], True),
        (OWN, False),
    ],
)
def test_the_demo_and_smoke_runs_do(command, quickly, tmp_path, monkeypatch):
    called = []
    modules = {"compile_quickly": "lam_jax.hosts.quick_compilation", "start_process": "lam_jax.hosts.start"}
    for name, module in modules.items():
        monkeypatch.setattr(importlib.import_module(module), name, lambda name=name: called.append(name))
    monkeypatch.setattr(pipeline, "run_recipe", lambda *_, **__: called.append("run"))
    assert main([*command, "--out", str(tmp_path / "run")]) in (0, None)
    assert called == [*(["compile_quickly"] if quickly else []), "start_process", "run"]


@pytest.mark.parametrize(
    ("tasks", "steps", "rows"),
    [
        (("role_play",), 250, 8),
        (("role_play", "help"), 1_000, 8),
        (("maze",), 400, 16),
        (("role_play", "maze"), 400, 8),
    ],
)
def test_the_longest_of_the_tasks_says_how_long_the_demo_fine_tunes(tasks, steps, rows):
    sft = demo.recipe(task=tasks).sft
    assert (sft.steps, sft.rows) == (steps, rows)
