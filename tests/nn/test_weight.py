"""One declaration per weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from lam_jax.nn.layers import Linear
from lam_jax.nn.weight import Param, Weight, count, materialize, stack, structs


class Pair(struct.PyTreeNode):
    first: Param
    second: Param = None


LINEAR = Linear.spec(300, 200, ("embed", "mlp"), bias=True)


def test_values_follow_the_declaration(key):
    made = materialize(LINEAR, key)
    assert not made.bias.any()
    assert float(jnp.std(made.kernel)) == pytest.approx(0.02, rel=0.02)
    assert float(jnp.mean(made.kernel)) == pytest.approx(0, abs=3e-4)
    half = materialize(Weight((4,), (None,), "ones", jnp.bfloat16), key)
    assert half.dtype == jnp.bfloat16
    assert half.tolist() == [1, 1, 1, 1]


def test_a_weight_does_not_depend_on_its_neighbours(key):
    """Adding a module elsewhere changes no other weight, and equal shapes at other paths get other values."""
    alone = materialize(Pair(LINEAR), key)
    together = materialize(Pair(LINEAR, LINEAR), key)
    np.testing.assert_array_equal(alone.first.kernel, together.first.kernel)
    assert not np.array_equal(together.first.kernel, together.second.kernel)
    assert not np.array_equal(alone.first.kernel, materialize(Pair(LINEAR), jax.random.key(1)).first.kernel)


def test_stack_adds_a_leading_dimension_and_other_values_in_every_layer(key):
    stacked = stack(LINEAR, 3)
    assert stacked.kernel.shape == (3, 300, 200)
    assert stacked.kernel.axes == ("layers", "embed", "mlp")
    made = materialize(stacked, key)
    assert not np.array_equal(made.kernel[0], made.kernel[1])
    assert not made.bias.any()


def test_count_and_structs():
    assert count(stack(LINEAR, 3)) == 3 * (300 * 200 + 200)
    shapes = structs(LINEAR)
    assert (shapes.bias.shape, shapes.bias.dtype) == ((200,), jnp.float32)


def test_impossible_declarations_are_refused():
    with pytest.raises(ValueError, match="needs 2 axis names"):
        Weight((2, 3), ("embed",))
    with pytest.raises(ValueError, match="'uniform'"):
        Weight((2,), (None,), "uniform")
