"""The runner: shared phases are trained once, done cells are left alone, stopped and failed ones go on."""

import json
from collections import Counter

import numpy as np
import pytest

from lam_jax.errors import BadSettingError, InterruptedRunError
from lam_jax.grid import plan, run
from lam_jax.grid.listing import listed
from lam_jax.grid.record import GridFilesError, read_cell, read_cells
from lam_jax.grid.run import FailedCellsError, run_grid
from tests.grid import made

RL = "rl_token_role_play"
AFTER = ["scores_rl_token_role_play", "reach_rl_token_role_play"]
OWN = {"data", "base_model", RL, *AFTER}  # phases that no cells share
TIMES = ("finished", "seconds", "seconds_without_shared", "phases", "command")


@pytest.fixture
def pipeline(monkeypatch):
    found = made.Pipeline()
    monkeypatch.setattr(run, "run_recipe", found)
    monkeypatch.setattr(plan, "content_of", lambda recipe: made.CONTENT)
    return found


def numbers(folder):
    """All results without what differs from run to run."""
    cells = [read_cell(file) for file in sorted(folder.glob("*.json")) if file.name != "grid.json"]
    return {cell["cell"]: {k: v for k, v in cell.items() if k not in TIMES} for cell in cells}


def test_phases_that_cells_share_are_trained_once_and_the_results_are_those_of_cells_alone(pipeline, tmp_path):
    said = []
    found = run_grid(made.grid(), tmp_path / "together", say=said.append)
    assert list(found) == ["seed0_grpo", "seed0_dapo", "seed1_grpo", "seed1_dapo"]
    count = Counter(phase for _, phase in pipeline.trained)
    assert {phase for phase, times in count.items() if times == 2} == {
        *("stage1_inverse", "stage2_projector", "stage3_joint", "stage4_cloning", "codes"),
        *("reach", "sft_token_role_play", "scores_sft_token_role_play", "reach_token_role_play"),
    }
    assert count[RL] == count["scores_rl_token_role_play"] == count["data"] == 4
    shared = {p["name"] for p in found["seed0_dapo"]["phases"] if p["shared"]}
    assert len(shared) == 9
    assert not any(p["shared"] for p in found["seed0_grpo"]["phases"])
    assert found["seed0_dapo"]["rl_flops"] == {RL: 2.0}
    (curve,) = found["seed0_dapo"]["curves"]
    assert (curve["steps"], curve["flops"], curve["reward_mean"], curve["kl"]) == ([1, 2], [1, 2], [0.25, 0.5], [0, 0])
    for name in found:
        seed, algorithm = name[4:].split("_")
        alone = tmp_path / name
        run_grid(made.grid(seed=(int(seed),), algorithm=(algorithm,)), alone, say=said.append)
        assert numbers(alone / "results")[name] == numbers(tmp_path / "together" / "results")[name]
    before = list(pipeline.trained)
    run_grid(made.grid(), tmp_path / "elsewhere", tmp_path / "together" / "results", say=said.append)
    assert pipeline.trained == before, "results that are there are not made again, whatever the folder of runs"
    assert "4 of 4 cells are done." in said
    assert any(line.startswith("cell 2 of 4: seed0_dapo, about 10 s left") for line in said)


def test_a_stopped_grid_goes_on_to_the_same_numbers(pipeline, tmp_path):
    run_grid(made.grid(), tmp_path / "whole", say=str)
    pipeline.raises["dapo", RL] = InterruptedRunError("Stopped by Ctrl-C")
    with pytest.raises(InterruptedRunError):
        run_grid(made.grid(), tmp_path / "cut", say=str)
    assert list(numbers(tmp_path / "cut" / "results")) == ["seed0_grpo"]
    pipeline.trained.clear()
    run_grid(made.grid(), tmp_path / "cut", say=str)
    assert numbers(tmp_path / "cut" / "results") == numbers(tmp_path / "whole" / "results")
    assert [phase for folder, phase in pipeline.trained if folder.startswith("seed0")] == [RL, *AFTER]


def test_a_failed_cell_is_reported_and_the_others_run_and_it_is_run_again_alone(pipeline, tmp_path):
    said = []
    pipeline.raises["dapo", RL] = RuntimeError("no luck")
    with pytest.raises(FailedCellsError, match=r"1 of 4 cells failed.*\n  seed0_dapo: RuntimeError: no luck"):
        run_grid(made.grid(), tmp_path, say=said.append)
    assert set(numbers(tmp_path / "results")) == {"seed0_grpo", "seed1_grpo", "seed1_dapo"}
    assert "in train" in (tmp_path / "failures" / "seed0_dapo.txt").read_text()
    pipeline.trained.clear()
    assert len(run_grid(made.grid(), tmp_path, only=["seed0_dapo"], say=said.append)) == 4
    assert {phase for _, phase in pipeline.trained} == {RL, *AFTER}
    pipeline.trained.clear()
    old = numbers(tmp_path / "results")
    run_grid(made.grid(), tmp_path, only=["seed0_dapo"], say=said.append)
    assert RL in {phase for _, phase in pipeline.trained}, "asked for by name a cell that is done is run again"
    assert numbers(tmp_path / "results") == old
    with pytest.raises(BadSettingError, match="found 'x', expected some of the cells seed0_grpo, "):
        run_grid(made.grid(), tmp_path, only=["x"], say=said.append)


def test_a_changed_recipe_is_another_cell(pipeline, tmp_path):
    grid = made.grid(seed=(0,))
    run_grid(grid, tmp_path, say=str)
    pipeline.trained.clear()
    changed = made.Grid(grid.name, grid.recipes, grid.axes, {**grid.fixed, "rl.steps": 5})
    run_grid(changed, tmp_path, say=str)
    assert {phase for _, phase in pipeline.trained} == OWN
    files = sorted(file.name for file in (tmp_path / "results").glob("seed0*"))
    assert len(files) == 2
    assert len(read_cells(tmp_path / "results")) == 2, "the old result is kept beside the new one"
    pipeline.trained.clear()
    run_grid(grid, tmp_path, say=str)
    assert pipeline.trained == []


def test_a_damaged_phase_of_the_store_is_trained_again(pipeline, tmp_path):
    run_grid(made.grid(seed=(0,), algorithm=("grpo",)), tmp_path / "a", say=str)
    store = tmp_path / "a" / "phases"
    (key,) = [f for f in store.iterdir() if _phase_of(tmp_path / "a", f) == "sft_token_role_play"]
    for file in (key / "record").iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.unlink()  # the run's own file is another name of the same
        file.write_bytes(content)
    pipeline.trained.clear()
    run_grid(made.grid(seed=(0,), algorithm=("grpo", "dapo")), tmp_path / "a", say=str)
    assert "sft_token_role_play" in {phase for _, phase in pipeline.trained}
    whole = made.Pipeline()
    found = numbers(tmp_path / "a" / "results")["seed0_dapo"]
    run.run_recipe = whole  # restored by the fixture
    run_grid(made.grid(seed=(0,), algorithm=("dapo",)), tmp_path / "b", say=str)
    assert numbers(tmp_path / "b" / "results")["seed0_dapo"] == found


def _phase_of(folder, key) -> str:
    """The phase whose files a folder of the store has."""
    inode = next((key / "record").iterdir()).stat().st_ino
    for file in (folder / "cells").glob("*/phases/*/record/*"):
        if file.stat().st_ino == inode:
            return file.parent.parent.name
    return ""


def test_cells_are_listed_with_their_times(pipeline, tmp_path):
    grid = made.grid(seed=(0,), algorithm=("grpo", "dapo"))
    assert list(listed(grid, tmp_path / "results"))[-1] == "2 of 2 cells left: no time known"
    run_grid(grid, tmp_path, only=["seed0_grpo"], say=str)
    file = tmp_path / "results" / "seed0_grpo.json"
    record = read_cell(file)
    record["phases"] = [phase | {"seconds": 360.0} for phase in record["phases"]]
    file.write_text(json.dumps(record))
    lines = list(listed(grid, tmp_path / "results"))
    assert lines[0].startswith("seed0_grpo  done")
    # What is its own, 0.1 h each; the rest is shared.
    assert lines[1] == f"seed0_dapo  about {0.1 * len(OWN):.2f} h"
    assert lines[2] == f"1 of 2 cells left: about {0.1 * len(OWN):.2f} h"


def test_a_file_that_is_no_result_is_named(pipeline, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "x.json").write_text('{"format": 9}')
    with pytest.raises(GridFilesError, match=r"x\.json, key 'format': found 9, expected 1"):
        run_grid(made.grid(), tmp_path, say=str)


def test_made_numbers_differ():
    assert len(np.unique([made.number(i) for i in range(50)])) == 50
