"""`mmrole` and `pcogalign`: the released settings, and what they refuse."""

import dataclasses
import json
import warnings

import pytest

from lam_jax.cli.train import parse
from lam_jax.errors import BadSettingError
from lam_jax.recipe import Recipe
from lam_jax.recipes import mmrole, pcogalign
from lam_jax.rewards.judge import JudgeConfig, JudgeReward
from lam_jax.values import ValueFormError
from tests.recipes.shipped import REAL

# What --quick and the run's own flags leave alone.
FLAGS = [word for name, value in REAL.items() for word in (f"--{name.replace('_', '-')}", value)]


def reward(recipe: Recipe) -> JudgeReward:
    found = recipe.tasks[0].reward
    assert isinstance(found, JudgeReward)
    return found


def examiner(recipe: Recipe) -> JudgeReward:
    found = recipe.tasks[0].examiner
    assert isinstance(found, JudgeReward)
    return found


@pytest.mark.parametrize("recipe", [mmrole.recipe(**REAL), pcogalign.recipe(**REAL)], ids=["mmrole", "pcogalign"])
def test_released_settings_by_hand(recipe):
    stages = [recipe.inverse, recipe.projector, recipe.joint, recipe.cloning]
    assert [s.optimiser.lr for s in stages] == [1e-4, 1e-3, 1e-4, 1e-4]
    assert [s.optimiser.schedule for s in stages] == ["cosine", "linear", "cosine", "cosine"]
    assert [s.optimiser.warmup_fraction for s in stages] == [0, 0.1, 0.1, 0]
    assert [s.optimiser.final_fraction for s in stages] == [0.1, 0, 0.1, 0]
    assert {(s.rows, s.epochs) for s in stages} == {(16, 1)}
    sft = recipe.sft
    assert (sft.rows, sft.epochs, sft.optimiser.lr, sft.optimiser.warmup_fraction) == (4, 3, 5e-5, 0.03)
    assert (recipe.paired.lengths, recipe.text_only.lengths) == ((2048,), (2048,))
    assert (recipe.image.size, recipe.latent.codes) == ((280, 420), 128)
    rl = recipe.rl
    assert (rl.steps, rl.prompts, rl.samples, rl.algorithm.name, rl.algorithm.beta) == (100, 4, 8, "grpo", 0.01)
    assert {space: optimiser.lr for space, optimiser in rl.optimisers.items()} == {"latent": 1e-6, "token": 1e-6}
    assert (rl.sampling["latent"].top_k, rl.sampling["latent"].temperature) == (32, 1.0)
    assert (rl.sampling["token"].top_k, rl.sampling["token"].repetition_penalty) == (None, 1.0)
    (answers,) = recipe.evaluation.answers
    assert (answers.samples, recipe.evaluation.prompts) == (3, None)
    assert (answers.sampling["latent"].top_k, answers.sampling["latent"].temperature) == (64, 0.1)
    assert recipe.tasks[0].answer_length == 1024
    assert recipe.tasks[0].chat_lengths[-1] == 4096
    assert recipe.method.sft == "joint"
    assert recipe.method.remat
    assert recipe.spaces == ("latent", "token")


def test_real_prompts_have_room():
    """Of the real MMRole the longest RL prompt has 2,820 tokens; answers come after it in stage 5."""
    task = mmrole.recipe(**REAL).tasks[0]
    assert (task.prompt_lengths, task.val, list(task.tests)) == ((1536, 2304, 3072), "rl_val", ["id", "ood"])
    assert task.chat_lengths[-1] >= 2820 + 1024
    assert pcogalign.recipe(**REAL).tasks[0].prompt_lengths == (512, 1024)
    assert mmrole.recipe(**REAL, prompt_lengths=(1024,)).tasks[0].prompt_lengths == (1024,)
    assert mmrole.recipe(**REAL, algorithm="dapo").tasks[0].prompt_lengths == (1536, 2304, 3072)


def test_rubrics_and_splits():
    for module, count, splits in (
        (mmrole, 8, ["id_test", "ood_test"]),
        (pcogalign, 5, ["ls1", "ls2"]),
    ):
        found = module.recipe(**REAL)
        assert len(reward(found).rubric.dimensions) == count
        assert [scored.split for scored in found.tasks[0].tests.values()] == splits


def test_judges_of_training_and_evaluation():
    found = mmrole.recipe(
        **REAL,
        evaluation_judge="https://other/v1",
        judge_settings=("concurrency=3", "api_key_env=MINE"),
        evaluation_judge_settings=("concurrency=5",),
    )
    training, evaluation = reward(found).judge, examiner(found).judge
    assert (training.base_url, training.model, training.concurrency) == ("http://localhost:8000/v1", "judge", 3)
    assert (evaluation.base_url, evaluation.model, evaluation.concurrency) == ("https://other/v1", "examiner", 5)
    assert training.api_key_env == evaluation.api_key_env == "MINE"


def test_one_judge_in_two_roles_is_warned_of():
    same = {**REAL, "evaluation_judge_model": None}
    with pytest.warns(UserWarning, match="reward judge and evaluation judge are the same model"):
        found = mmrole.recipe(**same)
    assert found.tasks[0].evaluation_reward is None
    assert examiner(found) is reward(found)
    with pytest.warns(UserWarning, match="reward judge and writer of the references"):
        mmrole.recipe(**REAL, reference_writer="Judge")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mmrole.recipe(**REAL, reference_writer="another")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("concurrency", "NAME=VALUE"),
        ("concurrency=many", "concurrency"),
        ("concurrency=0", "concurrency is 0"),
        ("temprature=0", "temprature"),
    ],
)
def test_bad_settings_of_a_judge_are_named(setting, message):
    with pytest.raises((ValueError, BadSettingError), match=message):
        mmrole.recipe(**REAL, judge_settings=(setting,))


def test_published_needs_a_model_and_tiny_does_not():
    with pytest.raises(ValueError, match="--model: found none"):
        mmrole.recipe(**{**REAL, "model": None})
    tiny = mmrole.recipe(**{**REAL, "model": None}, preset="tiny")
    assert tiny.model.folder.startswith("lam_jax:")
    assert tiny.name == "mmrole (tiny)"
    assert {getattr(tiny, name).steps for name in ("inverse", "projector", "joint", "cloning", "sft")} == {12}
    longer = mmrole.recipe(**{**REAL, "model": None}, preset="tiny", epochs=2.0, rl_steps=7)
    assert (longer.inverse.epochs, longer.sft.steps, longer.rl.steps) == (2.0, 12, 7)


def test_flags_make_the_recipe():
    recipe, run = parse("pcogalign", [*FLAGS, "--space", "latent", "--algorithm", "bnpo", "--out", "runs/x"])
    assert recipe == pcogalign.recipe(**REAL, space=("latent",), algorithm="bnpo")
    assert str(run.out) == "runs/x"
    more = ["--judge-settings", "concurrency=2", "--prompt-lengths", "700", "--rows", "50", "--batch", "8"]
    recipe, _ = parse("mmrole", [*FLAGS, *more, "--out", "runs/x"])
    assert reward(recipe).judge == dataclasses.replace(JudgeConfig("http://localhost:8000/v1", "judge"), concurrency=2)
    assert (recipe.tasks[0].prompt_lengths, recipe.paired.rows.limit) == ((700,), 50)
    assert (recipe.inverse.rows, recipe.sft.rows) == (8, 2)


def test_without_text_rows_stages_go_without():
    found = mmrole.recipe(**{**REAL, "text": None})
    assert found.text_only is None
    assert not found.method.text_only


def test_a_recipe_reads_back_with_both_judges():
    found = pcogalign.recipe(**REAL)
    assert Recipe.from_json(found.to_json()) == found
    broken = json.loads(found.to_json())
    broken["tasks"][0]["evaluation_reward"]["judge"]["concurency"] = 1
    with pytest.raises(ValueFormError, match="concurency"):
        Recipe.from_json(json.dumps(broken))
