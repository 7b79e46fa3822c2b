"""Kernels held in fewer bits: levels and scales by hand, products against those of the numbers that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn.layers import GatedMLP, Linear
from lam_jax.nn.layout import Layout, laid_out_by
from lam_jax.nn.stored import StoredLinear, quantise, require_storage, stored, with_stored
from lam_jax.nn.weight import materialize


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dequantised(levels, scale):
    return np.asarray(levels, np.float64) * np.asarray(scale, np.float64)[..., None, :]


def test_levels_and_scales_by_hand():
    """Of each column the largest is level 127; a column of zeros keeps scale 1; 0.6 of a level is a level."""
    kernel = jnp.array([[1.27, -2.54, 0.0], [0.006, 0.0, 0.0], [-0.5, 1.01, 0.0], [-0.004, -2.53, 0.0]])
    levels, scale = quantise(kernel)
    assert (levels.dtype, scale.dtype) == (jnp.int8, jnp.float32)
    np.testing.assert_allclose(scale, [0.01, 0.02, 1.0], rtol=1e-6)
    # 1.01 / 0.02 = 50.5 in float32 a little below or above.
    assert levels.tolist()[:2] == [[127, -127, 0], [1, 0, 0]]
    assert levels.tolist()[2] in ([-50, 50, 0], [-50, 51, 0])
    assert levels.tolist()[3] in ([0, -126, 0], [0, -127, 0])


@pytest.mark.parametrize("shape", [(64, 48), (3, 64, 48)])
def test_a_weight_is_off_by_half_a_scale_at_most(shape):
    kernel = normal(*shape) * np.exp(normal(shape[-1], seed=1))
    levels, scale = quantise(jnp.asarray(kernel))
    largest = np.abs(kernel).max(axis=-2)
    np.testing.assert_allclose(scale, largest / 127, rtol=1e-6)
    off = np.abs(dequantised(levels, scale) - kernel)
    bound = (largest / 254)[..., None, :]
    assert (off <= bound * (1 + 1e-4)).all()
    assert off.max() > 0.9 * bound.min()
    assert np.abs(np.asarray(levels)).max(axis=-2).min() == 127  # every column of every layer has its own scale


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("joined", [False, True])
def test_a_weight_that_is_no_number_shows_in_its_output_alone(bad, joined):
    kernel = normal(8, 4)
    kernel[3, 2] = bad
    with laid_out_by(Layout(joined=joined)):
        y = stored(Linear(jnp.asarray(kernel)), "int8")(jnp.asarray(normal(2, 3, 8)))
    assert np.isfinite(np.asarray(y)).all(axis=(0, 1)).tolist() == [True, True, False, True]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_a_product_is_that_of_the_numbers_that_are_stood_for(storage, dtype, bias, joined):
    kernel, x = normal(96, 40), jnp.asarray(normal(2, 3, 96, seed=1)).astype(dtype)
    linear = Linear(jnp.asarray(kernel), jnp.arange(40.0) if bias else None)
    with laid_out_by(Layout(joined=joined)):
        held = stored(linear, storage)
        y, wide = held(x), held.wide(x)
    assert (y.dtype, wide.dtype, y.shape, held.inputs) == (dtype, jnp.float32, (2, 3, 40), 96)
    if storage == "int8":
        meant = dequantised(*quantise(jnp.asarray(kernel)))
    else:
        meant = np.asarray(jnp.asarray(kernel).astype(jnp.bfloat16), np.float64)
    expected = np.asarray(x, np.float64) @ meant + (np.arange(40.0) if bias else 0)
    np.testing.assert_allclose(wide, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        y.astype(jnp.float32), expected, rtol=2**-7 if dtype == jnp.bfloat16 else 1e-5, atol=1e-4
    )


def test_all_maps_of_a_module_are_held_so_and_nothing_else():
    mlp = materialize(GatedMLP.spec(16, 32, bias=True), jax.random.key(0))
    assert with_stored(mlp, "same") is mlp
    held = with_stored(mlp, "int8")
    assert [type(m) for m in (held.gate, held.up, held.down)] == [StoredLinear] * 3
    assert [leaf.dtype.name for leaf in jax.tree.leaves(held.up)] == ["int8", "float32", "float32"]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), mlp)
    assert with_stored(half, "bfloat16").up is half.up  # it is so already
    assert with_stored(mlp, "bfloat16").up.kernel.dtype == jnp.bfloat16
    assert with_stored(mlp, "bfloat16").up.scale is None


def test_other_ways_are_refused():
    with pytest.raises(ValueError, match=r"X.weights is 'int4', expected one of \('same', 'bfloat16', 'int8'\)"):
        require_storage("X.weights", "int4")
