"""The plan of a recipe before it runs: its phases, counts that can be made by hand, and times from given rates."""

import dataclasses
import io

import pytest
from rich.console import Console

from lam_jax.aot.plan import PlannedPhase, Rates, plan_of, seconds_of, show_plan
from lam_jax.parallel.mesh import make_mesh
from lam_jax.pipeline import opened_apart
from lam_jax.recipes import own
from lam_jax.recipes.quick import quick
from tests.end_to_end.own_files import write_files


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    files = write_files(tmp_path_factory.mktemp("plan"), "made_score_plan")
    made = own.recipe(**files | {"reward": "similarity"}, epochs=2, batch=4)
    return dataclasses.replace(made, evaluation=quick(made).evaluation)


@pytest.fixture(scope="module")
def plan(recipe):
    with opened_apart(recipe) as resources:
        return {phase.name: phase for phase in plan_of(resources)}


def test_phases_steps_and_sizes(plan):
    assert list(plan) == [
        *("stage1_inverse", "stage2_projector", "stage3_joint", "stage4_cloning"),
        *("sft_latent_own", "scores_sft_latent_own", "reach_latent_own", "rl_latent_own", "scores_rl_latent_own"),
        "reach_rl_latent_own",
        *("sft_token_own", "scores_sft_token_own", "reach_token_own", "rl_token_own", "scores_rl_token_own"),
        "reach_rl_token_own",
    ]
    # 29 of 30 rows twice by fours; 15 task rows three times, a row at a time.
    assert [plan[name].runs for name in ("stage1_inverse", "sft_token_own", "rl_latent_own")] == [15, 45, 100]
    assert plan["stage1_inverse"].size == "4 x 192"
    assert plan["stage3_joint"].size == "4+4 x 192"
    assert plan["rl_token_own"].size == "4 x 8 x 128+64"
    # 3 test rows and 8 fixed prompts, each with 2 samples, 8 prompts at a time.
    assert plan["scores_rl_token_own"].runs == 2
    # Validation prompts fit into one rollout; codes are drawn by the policy and at random.
    assert [plan[f"reach_{space}_own"].runs for space in ("latent", "token", "rl_latent", "rl_token")] == [2, 1, 2, 1]


def test_operations_follow_from_rows(recipe, plan):
    twice = dataclasses.replace(
        recipe,
        inverse=dataclasses.replace(recipe.inverse, rows=8),
        rl=dataclasses.replace(recipe.rl, prompts=8),
        spaces=("token",),
    )
    with opened_apart(twice) as resources:
        larger = {phase.name: phase for phase in plan_of(resources)}
    assert larger["stage1_inverse"].flops == 2 * plan["stage1_inverse"].flops
    assert larger["rl_token_own"].flops == 2 * plan["rl_token_own"].flops
    assert larger["rl_token_own"].decode_bytes == plan["rl_token_own"].decode_bytes
    assert larger["rl_token_own"].memory > plan["rl_token_own"].memory


def test_seconds_by_hand():
    phase = PlannedPhase("p", runs=10, size="", flops=3_000, decode_bytes=500)
    # 10 x (3000 / 2 devices / 1000 / 0.75 + 1.7 x 500 / 100)
    mesh = make_mesh((2, 1, 1))
    assert seconds_of(phase, Rates(1_000.0, 100.0), mesh) == pytest.approx(10 * (2 + 8.5))


def test_it_reads_at_80_columns(recipe):
    out = io.StringIO()
    with opened_apart(recipe) as resources:
        show_plan(resources, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    table = [line for line in lines if line.startswith((" stage", " sft", " rl", " scores"))]
    assert len(table) == 12
    assert all(len(line) <= 80 for line in table)
    assert "2.6 million weights" in lines[0]
