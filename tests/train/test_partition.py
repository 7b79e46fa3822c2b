"""Splitting a tree into trainable and frozen, with slices of stacked layers."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.struct import PyTreeNode

from lam_jax.nn.vocabulary import look_up
from lam_jax.nn.weight import path_names
from lam_jax.train.partition import VOCABULARY_TABLES, Last, count_parameters, in_dtype, merge, partition


class Layer(PyTreeNode):
    kernel: Any
    bias: Any


class Model(PyTreeNode):
    embed: Any
    blocks: Layer
    head: tuple[Any, ...]


@pytest.fixture
def model() -> Model:
    blocks = Layer(jnp.arange(24.0).reshape(4, 2, 3), jnp.arange(12.0).reshape(4, 3))
    return Model(jnp.ones((5, 2)), blocks, (jnp.zeros(3), jnp.full(2, 7.0)))


def test_names_follow_fields_and_indices(model):
    assert path_names(model) == ["embed", "blocks.kernel", "blocks.bias", "head.0", "head.1"]


def test_halves_hold_each_weight_once_and_merge_gives_it_back(model):
    trainable, frozen = partition(model, lambda name, leaf: "bias" in name or leaf.ndim == 1)
    assert path_names(trainable) == ["blocks.bias", "head.0", "head.1"]
    assert path_names(frozen) == ["embed", "blocks.kernel"]
    assert trainable.embed is None
    assert frozen.blocks.bias is None
    chex.assert_trees_all_equal(merge(trainable, frozen), model)


def test_last_blocks_are_a_slice(model):
    trainable, frozen = partition(model, {"blocks": Last(1), "head": True})
    assert trainable.blocks.kernel.shape == (1, 2, 3)
    assert frozen.blocks.kernel.shape == (3, 2, 3)
    np.testing.assert_array_equal(trainable.blocks.kernel[0], model.blocks.kernel[3])
    assert count_parameters(trainable) == 6 + 3 + 3 + 2
    chex.assert_trees_all_equal(merge(trainable, frozen), model)


def test_all_rows_leave_nothing_frozen(model):
    trainable, frozen = partition(model, {"blocks": Last(4)})
    assert frozen.blocks.kernel is None
    chex.assert_trees_all_equal(merge(trainable, frozen), model)


def test_the_longest_prefix_decides(model):
    trainable, _ = partition(model, {"blocks": True, "blocks.bias": False, "head.1": True})
    assert path_names(trainable) == ["blocks.kernel", "head.1"]


def test_gradients_exist_for_trained_rows_only(model):
    trainable, frozen = partition(model, {"blocks.kernel": Last(2)})

    @jax.jit
    def loss(trainable, frozen):
        return jnp.sum(jnp.square(merge(trainable, frozen).blocks.kernel))

    gradients = jax.grad(loss)(trainable, frozen)
    assert path_names(gradients) == ["blocks.kernel"]
    np.testing.assert_allclose(gradients.blocks.kernel, 2 * model.blocks.kernel[2:])


def test_shape_structs_split_like_arrays(model):
    structs = jax.eval_shape(lambda: model)
    halves = partition(structs, {"blocks": Last(3)})
    expected = partition(model, {"blocks": Last(3)})
    assert jax.tree.map(lambda s: s.shape, halves) == jax.tree.map(lambda a: a.shape, expected)


def test_errors_name_what_is_wrong(model):
    with pytest.raises(ValueError, match=r"'block' names no weight.*blocks\.kernel"):
        partition(model, {"block": True})
    with pytest.raises(ValueError, match=r"blocks\.kernel: found 4 stacked rows.*asked to train 5"):
        partition(model, {"blocks": Last(5)})
    with pytest.raises(ValueError, match="Nothing to train"):
        partition(model, lambda name, leaf: False)
    with pytest.raises(ValueError, match="at least one row"):
        Last(0)


def test_a_vocabulary_table_sums_up_its_gradient_in_float32():
    """In bfloat16 a sum of ones stops at 256."""
    tree = {"backbone": {"embedding": jnp.ones((2, 1)), "norm": jnp.ones(1)}}

    def used(tree):
        compute = in_dtype(tree, jnp.bfloat16, VOCABULARY_TABLES)
        assert compute["backbone"]["norm"].dtype == jnp.bfloat16
        return look_up(compute["backbone"]["embedding"], jnp.zeros(3000, jnp.int32), jnp.dtype(jnp.bfloat16)).sum()

    assert jax.grad(used)(tree)["backbone"]["embedding"][0, 0] == 3000
