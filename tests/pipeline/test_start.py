"""A run that begins with another's learned actions: what is taken, what is refused, and what damage does."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lam_jax.errors import BadSettingError
from lam_jax.pipeline.phases import STAGE_PHASES
from lam_jax.pipeline.start import StagesOf, begin_from
from lam_jax.recipe import Recipe
from lam_jax.recipes import demo
from lam_jax.runs.phase_store import shared_phases
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run
from lam_jax.train.method import Method

CONTENT = {"model": {"w": "a"}, "rows": ["paired", "text", "role_play", "help"], "rewards": {}}
OWN = dataclasses.replace(demo.recipe(task=("help",), algorithm="dapo", space=("latent",)), name="own")
OWN_CONTENT = CONTENT | {"rows": ["paired", "text", "other"], "rewards": {"help/score": "hash"}}
STAGES, LATER = tuple(STAGE_PHASES), "sft_latent_help"


def go(folder: Path, recipe: Recipe, content: dict, start: Path | None, first: float) -> dict[str, tuple[float, bool]]:
    """Runs the stages and a phase more, each "training" a number; of each the number, and whether it was restored."""
    found = {}
    stages = None if start is None else StagesOf(start, recipe, content)
    with Run(folder, {"recipe": recipe, "content": content}, Progress(enabled=False)) as run:
        if stages is not None:
            run.share(stages)
        for number, name in enumerate((*STAGES, LATER)):
            tree = {"w": np.float32(first + number)}
            result = run.phase(name, lambda tree=tree: (tree, {}), {"w": np.float32(0)})
            found[name] = float(result.tree["w"]), result.resumed
    return found


@pytest.fixture
def start(tmp_path) -> Path:
    go(tmp_path / "demo", demo.recipe(), CONTENT, None, 0.0)
    return tmp_path / "demo"


def test_stages_1_to_4_are_taken_and_what_follows_is_trained(start, tmp_path):
    before = sorted(path.relative_to(start) for path in start.rglob("*"))
    found = go(tmp_path / "own", OWN, OWN_CONTENT, start, 10.0)
    assert found == {**{name: (float(i), True) for i, name in enumerate(STAGES)}, LATER: (14.0, False)}
    assert sorted(path.relative_to(start) for path in start.rglob("*")) == before
    assert shared_phases(tmp_path / "own") == {name: str((start / "phases" / name).absolute()) for name in STAGES}
    shutil.rmtree(start)
    assert begin_from(start, OWN, tmp_path / "own") is None, "what is there needs no other run"
    with pytest.raises(BadSettingError, match="is no run"):
        begin_from(start, OWN, tmp_path / "other")
    assert begin_from(None, OWN, tmp_path / "other") is None
    again = go(tmp_path / "own", OWN, OWN_CONTENT, None, 20.0)
    assert again[STAGES[-1]] == (3.0, True)


def test_all_stages_are_there_once_the_first_was_asked_for(start, tmp_path):
    with Run(tmp_path / "own", {"recipe": OWN, "content": OWN_CONTENT}, Progress(enabled=False)) as run:
        run.share(StagesOf(start, OWN, OWN_CONTENT))
        run.phase(STAGES[0], lambda: ({"w": np.float32(9)}, {}), {"w": np.float32(0)})
        assert {path.name for path in run.phases.iterdir()} == set(STAGES)


def replaced(recipe: Recipe, name: str, **fields) -> Recipe:
    return dataclasses.replace(recipe, **{name: dataclasses.replace(getattr(recipe, name), **fields)})


@pytest.mark.parametrize(
    ("recipe", "content", "why"),
    [
        (replaced(OWN, "joint", steps=3), OWN_CONTENT, "joint.steps: found 180, expected 3"),
        (dataclasses.replace(OWN, seed=1), OWN_CONTENT, "seed: found 0, expected 1"),
        (replaced(OWN, "latent", codes=16), OWN_CONTENT, "latent.codes: found 32, expected 16"),
        (replaced(OWN, "method", cycle=False), OWN_CONTENT, "method.cycle: found True, expected False"),
        (OWN, OWN_CONTENT | {"rows": ["paired", "new", "x"]}, r"content.rows\[1\]: found 'text', expected 'new'"),
        (OWN, OWN_CONTENT | {"model": {"w": "b"}}, "content.model.w: found 'a', expected 'b'"),
    ],
)
def test_other_stages_rows_or_model_are_refused(start, recipe, content, why):
    with pytest.raises(BadSettingError, match=f"demo learned its actions with other settings, rows or model: .*{why}"):
        StagesOf(start, recipe, content)


def test_the_recipe_of_stage_5_may_differ(start):
    StagesOf(start, dataclasses.replace(OWN, method=Method(sft="learn")), OWN_CONTENT)


def test_a_run_of_before_a_field_was_added_serves(start):
    config = json.loads((start / "config.json").read_text())
    del config["config"]["recipe"]["method"]["gumbel"]  # now with a default
    (start / "config.json").write_text(json.dumps(config))
    StagesOf(start, OWN, OWN_CONTENT)


def test_what_is_no_run_or_has_not_come_so_far_is_refused(start, tmp_path):
    with pytest.raises(BadSettingError, match="none is no run of a recipe"):
        StagesOf(tmp_path / "none", OWN, OWN_CONTENT)
    shutil.rmtree(start / "phases" / STAGES[3])
    with pytest.raises(BadSettingError, match=f"has not completed {STAGES[3]}; run it further"):
        StagesOf(start, OWN, OWN_CONTENT)


def test_a_damaged_stage_is_trained_again_and_so_are_those_after_it(start, tmp_path):
    """Those that the other run has were trained after its own."""
    file = next((start / "phases" / STAGES[1] / "record").iterdir())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = go(tmp_path / "own", OWN, OWN_CONTENT, start, 10.0)
    assert found[STAGES[0]] == (0.0, True)
    assert [found[name] for name in (*STAGES[1:], LATER)] == [
        (11.0, False),
        (12.0, False),
        (13.0, False),
        (14.0, False),
    ]
    assert set(shared_phases(tmp_path / "own")) == {STAGES[0]}


def test_a_store_and_a_start_exclude_each_other(start, tmp_path):
    from lam_jax.pipeline import run_recipe

    with pytest.raises(BadSettingError, match="found store and start"):
        run_recipe(OWN, tmp_path / "own", store=tmp_path / "store", start=start)
