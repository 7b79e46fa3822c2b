"""RL in the hybrid space: what trains, what an update reads, where its recipe and phases come from.

Loss, KL and every gradient are in test_rl_updates.py, draws and log-probabilities in tests/rollout/test_hybrid.py.
"""

import dataclasses
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.cli.spaces import SpaceName as FlagName
from lam_jax.pipeline.phases import rl_phase, sft_phases
from lam_jax.pipeline.plan import phases_of
from lam_jax.recipes import demo
from lam_jax.recipes.spaces import in_spaces
from lam_jax.report.names import SPACES as REPORTED
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.train.method import Method
from lam_jax.train.spaces import HYBRID, LATENT, SPACES, SpaceName
from lam_jax.values import decode, encode
from tests.train.made_rl import agent_of, apply, collect, config, gradient, make_with, moved_state, named, prompts
from tests.two_spaces import BOTH

NAMED = ("latent.policy.", "latent.world.", "latent.codebook")


@functools.cache
def settings():
    """Two updates a rollout, no clipping of gradients, a KL."""
    base = config("hybrid", beta=0.3)
    return dataclasses.replace(base, epochs=2, optimiser=dataclasses.replace(base.optimiser, clip_norm=1e9))


@functools.cache
def made():
    return make_with(settings())


def updated(step, state, batch):
    """(metrics, gradient by weight, state)"""
    state, metrics = apply(step, jax.tree.map(lambda x: x.copy(), state), batch)
    return {name: float(value) for name, value in metrics.items()}, gradient(step, state), state


def test_policy_merge_and_codebook_train_and_nothing_else():
    step, create = made()
    state = moved_state(step, create)
    batch, _ = collect(step, state, prompts(0))
    _, found, _ = updated(step, state, batch)
    whole = named(agent_of(step, state))
    assert set(found) == {name for name in whole if name.startswith(NAMED)}
    for name, value in found.items():
        assert np.abs(value).max() > 1e-7, name
    assert {name.split(".")[1] for name in set(whole) - set(found) if name.startswith("latent.")} == {
        *("inverse", "projector", "back_projector")
    }


def test_an_update_reads_no_block_of_the_backbone_and_no_vision_tower():
    """With NaN in their place it is the same to the last bit."""
    step, create = made()
    state = moved_state(step, create)
    batch, _ = collect(step, state, prompts(0))
    metrics, found, _ = updated(step, state, batch)
    sound = step.update.frozen
    backbone, latent = sound.backbone, sound.latent
    nan = functools.partial(jax.tree.map, lambda x: x * jnp.nan)
    try:
        step.update.frozen = sound.replace(
            backbone=backbone.replace(blocks=nan(backbone.blocks), vision=nan(backbone.vision)),
            latent=latent.replace(inverse=nan(latent.inverse), back_projector=nan(latent.back_projector)),
        )
        same, again, _ = updated(step, state, batch)
    finally:
        step.update.frozen = sound
    assert same == metrics
    for name, value in found.items():
        np.testing.assert_array_equal(again[name], value)


def test_the_kl_is_against_a_copy_of_policy_merge_and_codebook():
    """None at the start; after a step of each of the three it is there, and an update moves no reference."""
    step, create = made()
    state = create()
    before = named(jax.device_get(step.update.reference))
    batch, _ = collect(step, state, prompts(0))
    metrics, _, after = updated(step, state, batch)
    assert metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-5)
    for name, value in named(jax.device_get(step.update.reference)).items():
        np.testing.assert_array_equal(value, before[name])
    start, moved = create(), after.trainable.latent
    for part in ("policy", "world", "codebook"):
        latent = start.trainable.latent.replace(**{part: getattr(moved, part)})
        changed = start.replace(trainable=start.trainable.replace(latent=latent))
        assert updated(step, changed, batch)[0]["kl"] > 1e-6, part


def test_rollouts_are_of_the_present_merge_and_codebook():
    """After an update: the recorded log-probabilities are those of the moved weights, not of the first ones."""
    step, create = made()
    state = moved_state(step, create)
    batch, _ = collect(step, state, prompts(0))
    method, rolled, sampling = Method(), batch.rollout, settings().rollout.sampling
    mask = np.asarray(rolled.mask)
    score = jax.jit(lambda agent: HYBRID.logps(agent, method, batch.prompts, rolled, sampling, False)[0])
    moved, first = score(agent_of(step, state)), score(agent_of(step))
    np.testing.assert_allclose(np.asarray(moved)[mask], np.asarray(rolled.logps)[mask], atol=2e-5)
    assert np.abs(np.asarray(first) - np.asarray(rolled.logps))[mask].max() > 0.05


def test_entropies_of_codes_and_tokens_are_told_apart_and_of_a_skipped_update_too():
    step, create = made()
    batch, _ = collect(step, create(), prompts(0))
    metrics, _, _ = updated(step, create(), batch)
    mask = np.asarray(batch.mask)
    recorded = np.asarray(batch.rollout.entropy)[mask].mean()
    assert metrics["code_entropy"] + metrics["emission_entropy"] == pytest.approx(metrics["entropy"], rel=1e-5)
    assert metrics["entropy"] == pytest.approx(recorded, rel=1e-4)
    assert 0.5 < metrics["code_entropy"] <= np.log(6) + 1e-5
    skipped, _, _ = updated(step, create(), batch.replace(mask=jnp.zeros_like(batch.mask)))
    assert skipped["code_entropy"] == skipped["emission_entropy"] == 0
    assert skipped.keys() == metrics.keys()


def test_it_starts_from_the_latent_sft_whose_phases_it_shares():
    assert sft_phases("help", HYBRID, Method()) == sft_phases("help", LATENT, Method())
    assert rl_phase("help", HYBRID) == "rl_hybrid_help"
    phases = phases_of(demo.recipe(task=("help",), space=("latent", "hybrid")))
    tail = phases[phases.index("codes") + 1 :]
    assert tail == (
        *("reach", "sft_latent_help", "control_help", "scores_sft_latent_help", "reach_latent_help"),
        *("rl_latent_help", "scores_rl_latent_help", "reach_rl_latent_help"),
        *("scores_sft_hybrid_help", "reach_hybrid_help", "rl_hybrid_help", "scores_rl_hybrid_help"),
        "reach_rl_hybrid_help",
    )


def test_a_recipe_gets_the_hybrid_space_beside_the_others_or_alone():
    plain = BOTH
    assert plain.spaces == ("latent", "token")
    assert "hybrid" not in plain.rl.sampling
    assert in_spaces(plain, ("token",)) == dataclasses.replace(plain, spaces=("token",))
    found = demo.recipe(space=("hybrid",), emission=0.7)
    assert found.spaces == ("hybrid",)
    assert found.rl.sampling["hybrid"] == HybridSampling(emission=0.7)
    assert found.evaluation.answers[1].sampling["hybrid"] == SamplingConfig(temperature=0.1)
    assert found.rl.optimisers["hybrid"] == found.rl.optimisers["latent"]
    assert decode(encode(found)) == found


def test_a_recipe_refuses_emissions_where_none_are_and_asks_for_them_where_they_are():
    found = demo.recipe(space=("latent", "hybrid"))
    for space, other, expected in (
        (
            "hybrid",
            SamplingConfig(),
            r"sampling\['hybrid'\] is a SamplingConfig with an emission of 0\.0, expected a H",
        ),
        (
            "latent",
            HybridSampling(),
            r"sampling\['latent'\] is a HybridSampling with an emission of 0\.5, expected a S",
        ),
    ):
        rl = dataclasses.replace(found.rl, sampling={**found.rl.sampling, space: other})
        with pytest.raises(ValueError, match=rf"Recipe\.rl\.{expected}"):
            dataclasses.replace(found, rl=rl)
    first = found.evaluation.answers[0]
    answers = (dataclasses.replace(first, sampling={**first.sampling, "hybrid": HybridSampling()}),)
    with pytest.raises(ValueError, match=r"answers\[0\]\.sampling\['hybrid'\].*answers and other spaces not"):
        dataclasses.replace(found, evaluation=dataclasses.replace(found.evaluation, answers=answers))


def test_all_places_that_name_the_spaces_name_the_same():
    assert get_args(SpaceName) == get_args(FlagName) == tuple(SPACES) == REPORTED
