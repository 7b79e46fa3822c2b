"""A cell's record: what of a run is kept, which of two results counts, and under which identity."""

import json

import numpy as np
import pytest

from lam_jax.grid import plan, record
from lam_jax.grid.grid import Grid
from lam_jax.grid.plan import plan_cells
from lam_jax.grid.record import GridFilesError, read_cells
from lam_jax.grid.run import run_grid
from lam_jax.recipes import demo
from lam_jax.runs.checkpoint import save_checkpoint
from tests.grid import made
from tests.grid.test_run_grid import pipeline as pipeline

PLACES = (("id", 1.0), ("id", 0.1), ("ood", 1.0))


def scored(tmp_path, places=PLACES):
    """A run's folder whose scores after SFT are at these splits and temperatures."""
    entries = [{"split": split, "temperature": t, "samples": 1, "scores": {"r": [t]}} for split, t in places]
    metadata = {"record": {"by_prompt": entries}, "seconds": 1.0, "compile_seconds": 0.0}
    save_checkpoint(tmp_path / "phases" / "scores_sft_latent_help", {"w": np.zeros(1)}, metadata)
    return tmp_path


def rows(places=PLACES):
    base = {"task": "help", "space": "latent", "phase": "sft", "other": 1}
    return [base | {"split": split, "temperature": t, "mean": t} for split, t in places]


def test_each_row_gets_its_own_scores_by_prompt(tmp_path):
    found = record._scores(scored(tmp_path), rows())
    assert [(row["split"], row["temperature"], row["by_prompt"]) for row in found] == [
        (split, t, {"r": [t]}) for split, t in PLACES
    ]
    assert "other" not in found[0]


def test_scores_of_another_place_are_not_taken(tmp_path):
    with pytest.raises(GridFilesError, match="differ in order"):
        record._scores(scored(tmp_path), rows(PLACES[::-1]))


def test_scores_that_were_not_kept_by_prompt_are_refused(tmp_path):
    with pytest.raises(GridFilesError, match="did not keep them by prompt"):
        record._scores(scored(tmp_path, ()), rows())


def test_of_two_results_of_one_identity_the_later_one_counts(tmp_path):
    base = {"format": 1, "identity": "x", "axes": {}, "seed": 0, "scores": [], "phases": []}
    for name, finished in (("a", "2026-02"), ("b", "2026-01"), ("c", "2026-03"), ("d", "2026-01")):
        (tmp_path / f"{name}.json").write_text(json.dumps(base | {"cell": name, "finished": finished}))
    assert read_cells(tmp_path)["x"]["cell"] == "c"


def test_seconds_algorithms_and_ablations_of_a_cell(pipeline, tmp_path):
    axes = {"method.cycle": (True, False), "algorithm": ("grpo", "dapo")}
    grid = Grid("made", {"demo": demo.recipe}, axes, {"task": ("role_play",), "spaces": ("token",)})
    found = run_grid(grid, tmp_path, say=str)
    assert [cell["left_out"] for cell in found.values()] == [[], [], ["cycle"], ["cycle"]]
    assert [cell["algorithms"]["role_play"] for cell in found.values()] == ["grpo", "dapo"] * 2
    for cell in found.values():
        own = sum(p["seconds"] for p in cell["phases"] if not p["shared"])
        assert cell["seconds_without_shared"] == pytest.approx(own, abs=1e-3)
        assert cell["seconds"] == pytest.approx(sum(p["seconds"] for p in cell["phases"]), abs=1e-3)


def test_other_rows_under_the_same_recipe_are_another_cell(monkeypatch):
    grid = made.grid(seed=(0,))
    monkeypatch.setattr(plan, "content_of", lambda recipe: made.CONTENT)
    first = [cell.identity for cell in plan_cells(grid)]
    assert first == [cell.identity for cell in plan_cells(grid)]
    monkeypatch.setattr(plan, "content_of", lambda recipe: made.CONTENT | {"rows": ["b", "c", "changed"]})
    assert not set(first) & {cell.identity for cell in plan_cells(grid)}


def test_files_are_read_once_for_all_cells_that_name_the_same(monkeypatch):
    asked = []

    def content_of(recipe):
        asked.append([task.name for task in recipe.tasks])
        return made.CONTENT | {"rewards": {"of": [task.name for task in recipe.tasks]}}

    monkeypatch.setattr(plan, "content_of", content_of)
    axes = {"seed": (0, 1), "task": (("role_play",), ("help",))}
    cells = plan_cells(Grid("made", {"demo": demo.recipe}, axes, {"spaces": ("token",)}))
    assert asked == [["role_play"], ["help"]]
    assert len({cell.identity for cell in cells}) == 4


def test_a_cell_whose_files_cannot_be_read_says_why(monkeypatch):
    def content_of(recipe):
        raise OSError("no such disk")

    monkeypatch.setattr(plan, "content_of", content_of)
    (cell,) = plan_cells(made.grid(seed=(0,), algorithm=("grpo",)))
    assert (cell.failure, cell.identity) == ("no such disk", "")
    assert cell.planned == {}


def test_a_result_is_kept_beside_a_new_one_of_another_recipe(tmp_path):
    base = {"format": 1, "cell": "c", "axes": {}, "seed": 0, "scores": [], "phases": []}
    for identity in ("first-identity", "second-identity"):
        record.write_record(tmp_path / "c.json", base | {"identity": identity})
    assert sorted(read_cells(tmp_path)) == ["first-identity", "second-identity"]
    assert (tmp_path / "c.first-id.json").exists()
    assert json.loads((tmp_path / "c.json").read_text())["identity"] == "second-identity"
