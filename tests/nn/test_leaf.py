"""Fields of pytrees hold what their types say, with one size for each letter of a tree's legend."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import jaxtyped

from lam_jax.models.inputs import Batch, Images
from lam_jax.rollout.engine import Rollout, RolloutConfig, rollout
from lam_jax.rollout.sampling import Sample, SamplingConfig, Support, sample, sample_keys
from lam_jax.train.method import METHODS
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.spaces import SPACES
from lam_jax.train.state import TrainState
from tests import tiny
from tests.tiny import Row, make_batch, words

N, G, T = 2, 3, 5


def types_of(node) -> dict:
    """The array type of each field that has one; its field may hold anything."""
    hints = typing.get_type_hints(type(node))
    found = {name: [t for t in typing.get_args(hint) if hasattr(t, "dim_str")] for name, hint in hints.items()}
    assert all(typing.Any in typing.get_args(hints[name]) for name, types in found.items() if types)
    return {name: types[0] for name, types in found.items() if types}


def wrong(node) -> list[str]:
    """Fields whose arrays are not of their type; those that are None by default may be missing."""
    may_miss = {field.name for field in dataclasses.fields(node) if field.default is None}
    there = {name: t for name, t in types_of(node).items() if getattr(node, name) is not None or name not in may_miss}
    with jaxtyped("context"):
        return [name for name, declared in there.items() if not isinstance(getattr(node, name), declared)]


def nodes():
    """One of each, as they are in use."""
    prompts = make_batch([Row(words(4), ((1, 2, 2),)), Row(words(6, 1))], 8, left=True)
    found = [prompts, prompts.images]
    for name, space in SPACES.items():
        actions = space.actions(tiny.agent(), METHODS["default"])
        config = RolloutConfig(G, T, SamplingConfig(top_k=4) if name == "latent" else SamplingConfig())
        ids = jnp.zeros((N, G), jnp.int32)
        shapes = jax.eval_shape(functools.partial(rollout, config=config), actions, prompts, ids, jax.random.key(0))
        made = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        found += [made, RLBatch(prompts, made, jnp.zeros((N, G)), made.mask)]
        found += [made.support] if made.support else []
    keys = sample_keys(jax.random.key(0), jnp.arange(N), 0)
    drawn = sample(keys, jnp.zeros((N, 7)), SamplingConfig(top_k=4))
    optimiser = make_optimiser(OptimiserConfig(0.1), 2)
    return [*found, drawn, drawn.support, TrainState.create({"w": jnp.ones(3)}, optimiser, jax.random.key(0))]


def test_every_field_is_of_its_type():
    made = nodes()
    assert {type(node) for node in made} == {Batch, Images, Rollout, RLBatch, Support, Sample, TrainState}
    assert [(type(node), wrong(node)) for node in made if wrong(node)] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens", jnp.zeros((2, 9), jnp.int32)),  # another L than the rest
        ("mask", jnp.zeros((2, 8), jnp.int32)),
        ("positions", jnp.zeros((2, 8, 3), jnp.int32)),
        ("has_image", jnp.zeros((2, 1), bool)),
    ],
)
def test_what_is_of_another_type_is_seen(field, value):
    batch = make_batch([Row(words(4)), Row(words(6, 1))], 8)
    assert wrong(batch) == []
    assert wrong(batch.replace(**{field: value})) != []


def test_other_leaves_may_stand_there():
    """NumPy arrays, shape structs, and stacked arrays."""
    batch = make_batch([Row(words(4)), Row(words(6, 1))], 8)
    host = jax.tree.map(np.asarray, batch)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), batch)
    shapes = jax.eval_shape(lambda x: x, batch)
    for other in (host, stacked, shapes):
        made = Batch(**{field.name: getattr(other, field.name) for field in dataclasses.fields(other)})
        assert made.tokens is other.tokens
