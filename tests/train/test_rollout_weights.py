"""RL whose rollouts hold the frozen backbone in fewer bits: what updates see of it, and where it is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from lam_jax.recipe import Recipe
from lam_jax.recipes import demo
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.train.method import METHODS
from tests.recipes.shipped import GOLDEN
from tests.train import plain_rl
from tests.train.made_rl import agent_of, config, make_with, moved_state, prompts

LATENT = demo.recipe(space=("latent", "hybrid"))


def held(settings, weights="int8", **changes):
    return dataclasses.replace(settings, rollout=dataclasses.replace(settings.rollout, weights=weights), **changes)


@pytest.mark.parametrize(("space", "train_norm"), [("latent", True), ("hybrid", False)])
def test_ratios_are_one_before_the_first_update(space, train_norm):
    """Two updates a rollout, whose ratios are to what the rollout recorded; of a policy that has moved already."""
    method = dataclasses.replace(METHODS["default"], train_norm=train_norm)
    step, create = make_with(held(config(space), epochs=2), method=method)
    state = moved_state(step, create)
    batch, _ = step.prepare(state, prompts(0))
    full = plain_rl.hidden(agent_of(step, state).backbone, batch.prompts, batch.rollout.tokens, batch.rollout.mask)
    length = batch.prompts.tokens.shape[1]
    states = [batch.rollout.hidden, full[:, :, length:]]
    assert np.abs(np.asarray(states[0]) - np.asarray(states[1])).max() > 1e-3  # the full weights would see others
    state, metrics = step.apply(state, batch, 0)
    assert [float(metrics[name]) for name in ("ratio_mean", "ratio_max")] == pytest.approx([1, 1], abs=1e-5)
    assert float(metrics["clip_fraction"]) == 0
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state.trainable))


def test_validation_answers_by_the_full_weights_and_emits_the_most_likely_token():
    rollout = held(config("hybrid")).rollout
    rollout = dataclasses.replace(rollout, sampling=HybridSampling(top_k=3, emission=0.5))
    assert rollout.answering() == dataclasses.replace(rollout, weights="same", sampling=SamplingConfig(top_k=3))


def with_weights(recipe, weights):
    return dataclasses.replace(recipe, rl=dataclasses.replace(recipe.rl, rollout_weights=weights))


def test_it_is_refused_where_the_backbone_scores_itself():
    with pytest.raises(ValueError, match=r"RLConfig\.rollout\.weights is 'int8' in the space 'token', whose update"):
        held(config("token"))
    assert held(config("token"), "same").rollout.weights == "same"
    message = r"Recipe\.rl\.rollout_weights is 'bfloat16' in the space 'token'.*--space latent"
    with pytest.raises(ValueError, match=message):
        with_weights(demo.recipe(), "bfloat16")
    assert with_weights(LATENT, "int8").rl.rollout_weights == "int8"


def test_a_recipe_keeps_it_and_one_from_before_it_was_a_choice_says_same():
    recipe = with_weights(LATENT, "int8")
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.fingerprint() != LATENT.fingerprint()
    older = json.loads((GOLDEN / "demo.json").read_text(encoding="utf-8"))
    del older["rl"]["rollout_weights"]
    assert Recipe.from_json(json.dumps(older)) == demo.recipe()
    other = json.loads(recipe.to_json())
    other["rl"]["rollout_weights"] = "int4"
    with pytest.raises(ValueError, match=r"recipe\.rl\.rollout_weights: found 'int4', expected Literal"):
        Recipe.from_json(json.dumps(other))
