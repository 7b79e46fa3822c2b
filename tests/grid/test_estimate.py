"""Estimates by hand: means over what was trained, tasks that stand for each other, shared phases once."""

import json

import pytest

from lam_jax.grid import plan
from lam_jax.grid.estimate import Estimate
from lam_jax.grid.listing import listed
from lam_jax.grid.plan import plan_cells
from lam_jax.grid.record import read_cell
from lam_jax.grid.run import run_grid
from lam_jax.pipeline.plan import phases_of
from tests.grid import made
from tests.grid.test_run_grid import pipeline as pipeline


@pytest.fixture(autouse=True)
def content(monkeypatch):
    monkeypatch.setattr(plan, "content_of", lambda recipe: made.CONTENT)


def record(task: str, seconds: dict[str, float]) -> dict:
    phases = [{"name": name, "seconds": value} for name, value in seconds.items()]
    return {"tasks": {task: {}}, "phases": phases}


def every(recipe, seconds: float) -> dict[str, float]:
    return dict.fromkeys(phases_of(recipe), seconds)


def test_phases_take_the_mean_of_what_they_took():
    (cell,) = plan_cells(made.grid(seed=(0,), algorithm=("grpo",)))
    names = phases_of(cell.cell.recipe)
    found = Estimate([record("role_play", every(cell.cell.recipe, s)) for s in (10.0, 20.0)]).of([cell], [cell])
    assert (found.seconds, found.whole) == (15.0 * len(names), True)


def test_a_phase_of_another_task_stands_in_and_an_unknown_one_makes_it_a_lower_bound():
    (cell,) = plan_cells(made.grid(seed=(0,), algorithm=("grpo",)))
    other = {"sft_token_help": 7.0, "rl_token_help": 5.0}
    found = Estimate([record("help", other)]).of([cell], [cell])
    assert (found.seconds, found.whole) == (12.0, False)
    own = record("role_play", {"rl_token_role_play": 100.0})
    assert Estimate([record("help", other), own]).of([cell], [cell]).seconds == 107.0
    assert Estimate([]).of([cell], [cell]) is None


def test_a_shared_phase_counts_once_and_not_where_it_is_done():
    one, two = plan_cells(made.grid(seed=(0,), algorithm=("grpo", "dapo")))
    estimate = Estimate([record("role_play", every(one.cell.recipe, 1.0))])
    names, shared = set(phases_of(one.cell.recipe)), set(one.planned) & set(two.planned)
    assert shared
    assert estimate.of([one, two], [one, two]).seconds == 2 * len(names) - len(shared)
    assert estimate.of([two], [one, two], {one.identity}).seconds == len(names) - len(shared)


def test_listed_times_count_on_the_cells_before(pipeline, tmp_path):
    """Of two cells that are left and share all but stage 6, the first one trains what they share."""
    grid = made.grid(seed=(0, 1), algorithm=("grpo", "dapo"))
    run_grid(grid, tmp_path, only=["seed0_grpo"], say=str)
    file = tmp_path / "results" / "seed0_grpo.json"
    found = read_cell(file)
    found["phases"] = [phase | {"seconds": 360.0} for phase in found["phases"]]
    file.write_text(json.dumps(found))
    cells = plan_cells(grid)
    count, shared = len(phases_of(cells[2].cell.recipe)), len(cells[2].planned)
    lines = list(listed(grid, tmp_path / "results"))
    assert lines[2] == f"seed1_grpo  about {0.1 * count:.2f} h"
    assert lines[3] == f"seed1_dapo  about {0.1 * (count - shared):.2f} h"
