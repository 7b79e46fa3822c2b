"""Every shipped recipe, serialised: a setting that moves shows as a line of a diff."""

import json

import pytest

from lam_jax.recipe import Recipe
from lam_jax.recipes import official, paper
from lam_jax.rewards.judge import JudgeReward
from lam_jax.values import differences
from tests.recipes.shipped import GOLDEN, REAL, SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_recipe_is_the_golden_one(name):
    text = (GOLDEN / f"{name}.json").read_text(encoding="utf-8")
    moved = differences(json.loads(SHIPPED[name].to_json()), json.loads(text))
    assert not moved, f"{moved}; if that is meant, write the files again: python -m tests.recipes.shipped"
    assert Recipe.from_json(text) == SHIPPED[name]


def test_every_golden_file_belongs_to_a_recipe():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(SHIPPED)


def test_published_settings_by_hand():
    """Section 3 of method.md: what a reader of the paper would look up."""
    found = paper.recipe(**REAL)
    rates = [getattr(found, name).optimiser.lr for name in ("inverse", "projector", "joint", "cloning", "sft")]
    assert rates == [1e-4, 1e-3, 1e-4, 1e-4, 5e-5]
    assert [found.joint.steps_of(160), found.sft.steps_of(160)] == [10, 120]
    assert (found.rl.steps, found.rl.prompts, found.rl.samples, found.rl.algorithm.beta) == (100, 4, 8, 0.01)
    assert found.rl.sampling["latent"].top_k == 32
    (answers,) = found.evaluation.answers
    assert (answers.samples, answers.sampling["latent"].top_k, answers.sampling["token"].temperature) == (3, 64, 0.1)
    assert (found.tasks[0].prompt_lengths, found.tasks[0].answer_length) == ((1024,), 1024)
    assert paper.recipe(**REAL, task="pcogalign").tasks[0].prompt_lengths == (512,)
    for task in (found.tasks[0], official.recipe(**REAL).tasks[0]):
        assert isinstance(task.reward, JudgeReward)
        assert isinstance(task.examiner, JudgeReward)
        assert (task.reward.judge.model, task.examiner.judge.model) == ("judge", "examiner")


def test_official_differs_from_the_paper_where_the_released_code_does():
    found = official.recipe(**REAL)
    assert (found.method.learning.readout, found.method.acting.readout) == ("delta", "block")
    assert not found.method.generating.project
    assert found.method.train_norm
    assert found.padding == "left"
    assert found.rl.image is not None
    assert (found.image.size, found.rl.image.size) == ((280, 420), (420, 280))
    token = found.rl.sampling["token"]
    assert token.greedy
    assert (token.repetition_penalty, token.renormalise) == (1.05, False)
    plain = official.recipe(**REAL, token_rollouts="plain").rl.sampling
    assert (plain["token"].temperature, plain["token"].repetition_penalty) == (1.0, 1.0)
    assert plain["latent"] == found.rl.sampling["latent"]
    assert (found.inverse.micro_batches, found.sft.micro_batches) == (4, 4)
