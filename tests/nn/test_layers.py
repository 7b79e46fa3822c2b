"""Layers and rotary embeddings against hand-computed numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.nn.layers import GatedMLP, Linear, RMSNorm, swiglu
from lam_jax.nn.rope import grid_rotary, multimodal_rotary


def test_linear_keeps_leading_dimensions():
    kernel = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    x = jnp.array([[[1.0, 0.0]], [[1.0, 2.0]]])
    expected = [[[10.0, 21.0, 32.0]], [[16.0, 29.0, 42.0]]]
    assert Linear(kernel, jnp.array([10.0, 20.0, 30.0]))(x).tolist() == expected


def test_rms_norm_by_hand():
    """The mean square of (3, 4) is 12.5."""
    y = RMSNorm(jnp.array([1.0, 2.0]), epsilon=0.0)(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(y, np.array([3.0, 8.0]) / np.sqrt(12.5), rtol=1e-6)


def test_rms_norm_of_bfloat16_squares_in_float32():
    x = jnp.full((64,), 3e20, jnp.bfloat16)
    y = RMSNorm(jnp.ones(64), epsilon=1e-6)(x / 1e10)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), np.ones(64), rtol=0.01)


def test_gated_mlp_by_hand():
    """silu(2) * 3, times 0.5."""
    one = [Linear(jnp.full((1, 1), w)) for w in (2.0, 3.0, 0.5)]
    np.testing.assert_allclose(GatedMLP(*one)(jnp.ones(1)), [0.5 * 3 * 2 / (1 + np.exp(-2))], rtol=1e-6)


def plain_swiglu(gate, up):
    return gate / (1 + jnp.exp(-gate)) * up


def test_gradients_of_swiglu_equal_those_of_the_plain_formula(key):
    """Large gates too, where the sigmoid is 0 or 1 to the last bit."""
    gate, up, weight = jax.random.normal(key, (3, 4, 5))
    gate = gate.at[0].set(jnp.array([0.0, 30.0, -30.0, 80.0, -80.0]))
    ours, plain = (jax.grad(lambda g, u, f=f: jnp.vdot(weight, f(g, u)), (0, 1)) for f in (swiglu, plain_swiglu))
    for got, expected in zip(jax.jit(ours)(gate, up), plain(gate, up), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_swiglu_keeps_its_arguments_only(key):
    """The backward pass of the plain formula needs further arrays of that size."""
    gate, up = jax.random.normal(key, (2, 4, 5))

    def kept(function):
        _, pullback = jax.vjp(function, gate, up)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept(swiglu) == gate.size + up.size < kept(plain_swiglu)


def test_scores_depend_on_the_distance_of_positions_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))

    def score(at, of):
        rotate = [multimodal_rotary(jnp.full((3, 1), p), 8, 100.0, (1, 1, 2)) for p in (at, of)]
        return float(jnp.sum(rotate[0](q) * rotate[1](k)))

    assert np.isclose(score(5, 2), score(15, 12), rtol=1e-4)
    assert not np.isclose(score(5, 2), score(5, 3), rtol=1e-2)


def test_each_chunk_of_frequencies_turns_with_its_stream():
    """Sections (1, 1, 2): a shift of the row moves frequency 1 alone, of the column frequencies 2 and 3."""
    base = multimodal_rotary(jnp.zeros((3, 1), jnp.int32), 8, 100.0, (1, 1, 2))
    for stream, moved in enumerate(([0], [1], [2, 3])):
        turned = multimodal_rotary(jnp.zeros((3, 1), jnp.int32).at[stream].set(1), 8, 100.0, (1, 1, 2))
        changed = np.flatnonzero(np.asarray(turned.sin != base.sin)[0])
        assert changed.tolist() == [*moved, *(m + 4 for m in moved)]


def test_vision_rotary_by_hand():
    """Head size 8: two frequencies for the row, two for the column, 1 and theta ** -0.5."""
    rotary = grid_rotary(jnp.array([[2, 3]]), 8, theta=100.0)
    angles = [2.0, 0.2, 3.0, 0.3]
    np.testing.assert_allclose(rotary.cos, [np.cos(angles + angles)], rtol=1e-5)
    np.testing.assert_allclose(rotary.sin, [np.sin(angles + angles)], rtol=1e-5)
