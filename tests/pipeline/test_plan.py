"""The phases of a recipe; that a run has just these is tested in tests/end_to_end/test_own_files.py."""

import dataclasses

from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.pipeline.plan import phases_of, schedule_of
from lam_jax.recipes import demo, paper
from lam_jax.train.method import Method
from tests.recipes.shipped import REAL
from tests.two_spaces import BOTH, HELP

STAGES = ("stage1_inverse", "stage2_projector", "stage3_joint", "stage4_cloning", "codes", "reach")


def test_phases_of_the_demo_in_order():
    tasks = []
    for task in ("role_play", "help"):
        tasks += [f"sft_latent_{task}", f"control_{task}", f"scores_sft_latent_{task}", f"reach_latent_{task}"]
        tasks += [f"rl_latent_{task}", f"scores_rl_latent_{task}", f"reach_rl_latent_{task}"]
        tasks += [f"sft_token_{task}", f"scores_sft_token_{task}", f"reach_token_{task}"]
        tasks += [f"rl_token_{task}", f"scores_rl_token_{task}", f"reach_rl_token_{task}"]
    assert phases_of(BOTH) == ("data", "base_model", *STAGES, *tasks)


def test_other_methods_and_spaces_have_other_phases():
    recipe = demo.recipe(task=("help",), method=Method(sft="guided"))
    recipe = dataclasses.replace(
        recipe, spaces=("latent",), evaluation=dataclasses.replace(recipe.evaluation, backbone=None)
    )
    own = ("sft_latent_help", "sft_clone_latent_help", "control_help", "scores_sft_latent_help")
    rest = ("rl_latent_help", "scores_rl_latent_help")
    assert phases_of(recipe) == ("data", *STAGES, *own, "reach_latent_help", *rest, "reach_rl_latent_help")
    evaluation = dataclasses.replace(recipe.evaluation, reach=None)
    without = dataclasses.replace(recipe, evaluation=evaluation)
    assert phases_of(without) == ("data", *STAGES[:-1], *own, *rest)


def test_tokens_have_no_reach_but_their_scores():
    """The probe of a token agent is scored answers alone, and those of a judged task are not asked for unbidden."""
    recipe = HELP
    for settings, expected in ((ReachSettings(), True), (ReachSettings(prompts=0), False)):
        own = dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, reach=settings))
        assert ("reach_token_help" in phases_of(own)) is expected
        assert ("reach_rl_token_help" in phases_of(own)) is expected
        assert ("reach_rl_latent_help" in phases_of(own)) is expected
        assert "reach_latent_help" in phases_of(own)
    judged = paper.recipe(**REAL)
    assert not {"reach_token_mmrole", "reach_rl_token_mmrole", "reach_rl_latent_mmrole"} & set(phases_of(judged))
    asked = dataclasses.replace(judged.evaluation, reach=ReachSettings(judged=True))
    assert "reach_token_mmrole" in phases_of(dataclasses.replace(judged, evaluation=asked))


def test_steps_follow_from_the_recipe_and_the_rows():
    """1,000 steps of SFT by themselves; three epochs over 100 rows in batches of 8 are 38 steps."""
    recipe = HELP
    steps = {phase.name: phase.steps for phase in schedule_of(recipe, lambda source, split: 100)}
    assert [steps[name] for name in STAGES] == [260, 60, 180, 130, None, None]
    assert (steps["sft_latent_help"], steps["rl_token_help"], steps["scores_rl_token_help"]) == (1_000, 12, None)
    sft = dataclasses.replace(recipe.sft, steps=None, epochs=3)
    asked = []
    steps = {
        phase.name: phase.steps
        for phase in schedule_of(dataclasses.replace(recipe, sft=sft), lambda *rows: (asked.append(rows), 100)[1])
    }
    assert steps["sft_token_help"] == 38
    assert set(asked) == {("paired", "train"), ("help", "sft")}


def test_phases_of_one_kind_differ_in_their_task_alone():
    kinds = {phase.name: phase.kind for phase in schedule_of(BOTH, lambda source, split: 1)}
    for first in ("sft_latent", "sft_token", "rl_latent", "rl_token", "control"):
        assert kinds[f"{first}_help"] == kinds[f"{first}_role_play"]
    assert len({kinds[f"{first}_help"] for first in ("sft_latent", "sft_token", "rl_latent", "rl_token")}) == 4
    assert kinds["scores_sft_latent_help"] == kinds["scores_rl_latent_role_play"] != kinds["scores_sft_token_help"]
