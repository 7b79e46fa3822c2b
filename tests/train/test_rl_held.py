"""What stage 6 holds: the same arrays in both kinds of programs, layers apart or not, and the same numbers.

N prompts, G samples of a prompt.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn.layout import PLAIN
from lam_jax.parallel.parked import discard
from lam_jax.train.optimiser import make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_held import Frozen, hold_frozen, hold_reference
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES
from lam_jax.train.state import TrainState
from tests import tiny
from tests.tiny import Row, make_batch, words
from tests.train.made_rl import METHOD, Numbers, config, moved_state, prompts, share_of_even_tokens

APART = dataclasses.replace(PLAIN, kept_apart=True)
EPS = 1e-3
"""AdamW's. With the usual 1e-8 a gradient that is rounding alone moves its weight by a whole learning rate."""


def halves(space, model=tiny.CONFIG, dtype="float32"):
    """Weights of their own, which may be released."""
    agent = jax.tree.map(jnp.copy, tiny.agent(model))
    agent = agent.replace(backbone=agent.backbone.replace(config=model.changed(compute_dtype=dtype)))
    return partition(agent, SPACES[space].trains(model, METHOD))


def names(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@pytest.mark.parametrize("space", ["latent", "hybrid", "token"])
def test_what_stands_still_is_there_once_and_without_what_is_not_used(space):
    _, frozen = halves(space, dtype="bfloat16")
    before, released = names(frozen), []
    held = hold_frozen(frozen, SPACES[space], APART, released.append)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(held.updates))
    assert set(map(id, jax.tree.leaves(held.updates))) == set(map(id, jax.tree.leaves(held.rollouts)))
    assert {id(leaf) for leaf in released} == {id(leaf) for leaf in before.values()}
    collect = Collector(config(space), METHOD, held.rollouts, share_of_even_tokens, Decoder(Numbers()), iter(()))
    assert set(map(id, jax.tree.leaves(collect.frozen))) == set(map(id, jax.tree.leaves(held.updates)))
    kept = {name.split(".")[1] for name in names(held.updates) if name.startswith("latent.")}
    expected = {"latent": {"codebook", "world", "projector"}, "hybrid": {"projector"}, "token": set()}
    assert kept == expected[space]
    assert not any("log_variance" in name for name in names(held.updates))
    assert isinstance(held.rollouts.backbone.blocks, tuple) == (space != "token")


def test_what_may_not_be_released_stays_and_is_shared():
    _, frozen = halves("latent")
    held = hold_frozen(frozen, SPACES["latent"], APART)
    for part in held:
        assert [a is b for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(frozen), strict=True)]


def test_layers_apart_are_the_rows_of_the_stack():
    _, frozen = halves("latent")
    stack = jax.device_get(frozen.backbone.blocks)
    held = hold_frozen(frozen, SPACES["latent"], APART, lambda leaf: leaf.delete())
    assert len(held.rollouts.backbone.blocks) == tiny.CONFIG.text.layers
    for i, layer in enumerate(held.rollouts.backbone.blocks):
        assert jax.tree.structure(layer) == jax.tree.structure(stack)
        for own, rows in zip(jax.tree.leaves(layer), jax.tree.leaves(stack), strict=True):
            np.testing.assert_array_equal(own, rows[i])


def test_structs_are_held_as_arrays_are():
    """What `lam-jax compile` counts."""
    for space in SPACES:
        _, frozen = halves(space, dtype="bfloat16")
        structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), frozen)
        counted, real = (hold_frozen(tree, SPACES[space], APART, lambda leaf: None) for tree in (structs, frozen))
        assert jax.tree.structure(counted) == jax.tree.structure(real)
        for struct, array in zip(jax.tree.leaves(counted), jax.tree.leaves(real), strict=True):
            assert (struct.shape, struct.dtype, struct.sharding) == (array.shape, array.dtype, array.sharding)


def step_of(space, layout=None, weights="same", dtype="float32", **changes):
    """(step, state); the half that stands still held for stage 6 in `layout`, or as it comes from training."""
    settings = config(space, **changes)
    settings = dataclasses.replace(
        settings,
        optimiser=dataclasses.replace(settings.optimiser, eps=EPS),
        rollout=dataclasses.replace(settings.rollout, weights=weights),
    )
    trainable, frozen = halves(space, dtype=dtype)
    optimiser = make_optimiser(settings.optimiser, settings.steps)
    state, reference = TrainState.create(trainable, optimiser, jax.random.key(0)), trainable
    held = Frozen(frozen, frozen)
    if layout is not None:
        held = hold_frozen(frozen, SPACES[space], layout, lambda leaf: leaf.delete() if leaf.dtype != dtype else None)
        reference = hold_reference(trainable, settings.algorithm)
        if dtype != "float32":
            discard(trainable)
    collect = Collector(settings, METHOD, held.rollouts, share_of_even_tokens, Decoder(Numbers()), iter(()))
    return RLStep(collect, Update(settings, METHOD, optimiser, held.updates, reference)), state


@functools.cache
def trained(space, layout=None, weights="same", dtype="float32", **changes):
    """Metrics and tokens of two steps from a state off the reference, and the weights after them."""
    step, state = step_of(space, layout, weights, dtype, **changes)
    state, found = moved_state(step, lambda: state), []
    for seed in range(2):
        batch, metrics = step.prepare(state, prompts(seed))
        state, applied = step.apply(state, batch, 0)
        kept = {name: float(value) for name, value in (metrics | applied).items() if not name.endswith("_s")}
        found.append((np.asarray(batch.rollout.tokens), kept))
    return found, jax.device_get(state.trainable)


def assert_equal(one, other, atol=1e-5):
    for (tokens, metrics), (more, others) in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(more, tokens)
        for name, value in metrics.items():
            assert others[name] == pytest.approx(value, rel=1e-4, abs=atol), name
    for x, y in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(y, x, atol=atol)


@pytest.mark.parametrize(
    ("space", "dtype", "layout"),
    [
        ("latent", "float32", APART),
        ("hybrid", "float32", APART),
        ("latent", "bfloat16", PLAIN),
        ("token", "bfloat16", APART),
    ],
)
def test_steps_are_those_of_the_halves_as_they_come_from_training(space, dtype, layout):
    """In bfloat16, whose rounding depends on the program, without layers apart, which are another one."""
    found = trained(space, layout, dtype=dtype)
    assert found[0][0][1]["kl"] > 0
    assert_equal(found, trained(space, dtype=dtype))


@pytest.mark.parametrize("space", ["latent", "hybrid"])
def test_steps_whose_rollouts_hold_the_backbone_in_int8_are_the_same_with_layers_apart(space):
    apart, plain = (trained(space, layout, "int8") for layout in (APART, None))
    assert_equal(apart, plain)
    assert plain[0][0][1] != trained(space)[0][0][1]


def test_without_a_kl_no_reference_is_held():
    found = trained("latent", APART, beta=0.0)
    assert_equal(found, trained("latent", beta=0.0))
    step, _ = step_of("latent", APART, beta=0.0)
    assert not jax.tree.leaves(step.update.reference)


def test_the_reference_is_held_in_the_compute_dtype():
    step, _ = step_of("latent", APART, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(step.update.reference)} == {jnp.dtype(jnp.bfloat16)}


def test_features_of_pictures_reach_layers_apart():
    """Qwen3-VL adds them after its first blocks."""
    batch = make_batch([Row(words(4), ((1, 4, 4),)), Row(words(6, 1))], 12, left=True, config=tiny.QWEN3)
    agent = tiny.agent(tiny.QWEN3)
    _, frozen = halves("latent", tiny.QWEN3)
    held = hold_frozen(frozen, SPACES["latent"], APART, lambda leaf: None).rollouts.backbone
    (plain, kv), (apart, layers) = (jax.jit(lambda model: model.prefill(batch))(m) for m in (agent.backbone, held))
    np.testing.assert_allclose(apart, plain, atol=1e-4)
    for stacked, found in zip(kv, layers, strict=True):
        np.testing.assert_allclose(np.stack(found), stacked, atol=1e-4)
    without = jax.jit(lambda model: model.prefill(batch.without_images())[0])(held)
    assert np.abs(np.asarray(without - apart)).max() > 1e-2
