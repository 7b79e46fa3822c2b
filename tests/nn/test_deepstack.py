"""DeepStack, and what else Qwen3-VL's decoder has that Qwen2.5-VL's has not, on numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn.block import DecoderBlock
from lam_jax.nn.deepstack import DeepStack, layer_numbers
from lam_jax.nn.layers import LayerNorm
from lam_jax.nn.rope import Rotary, interleaved_rotary, inverse_frequencies
from lam_jax.nn.weight import count, is_weight

# Two blocks, two rows of four positions; the first row has pictures' tokens at 1 and 2, the second at 3.
FEATURES = jnp.array([[[[1.0], [2.0]], [[3.0], [4.0]]], [[[10.0], [20.0]], [[30.0], [40.0]]]])
STACK = DeepStack(
    FEATURES,
    jnp.array([[0, 0, 1, 1], [0, 0, 0, 0]], jnp.int32),
    jnp.array([[False, True, True, False], [False, False, False, True]]),
)


def test_features_are_added_where_pictures_stand_after_the_first_blocks_only():
    x = jnp.full((2, 4, 1), 0.5)
    after = [np.asarray(STACK(x, jnp.int32(i)))[..., 0].tolist() for i in range(3)]
    assert after[0] == [[0.5, 1.5, 2.5, 0.5], [0.5, 0.5, 0.5, 3.5]]
    assert after[1] == [[0.5, 10.5, 20.5, 0.5], [0.5, 0.5, 0.5, 30.5]]
    assert after[2] == np.full((2, 4), 0.5).tolist()
    last = np.asarray(STACK.last(x[:, -1:], jnp.int32(1)))[..., 0]
    assert last.tolist() == [[0.5], [30.5]]


def test_gradients_reach_each_blocks_features_once():
    def total(features, layer):
        return jnp.sum(STACK.replace(features=features)(jnp.zeros((2, 4, 1)), layer) ** 2)

    first, beyond = (jax.grad(total)(FEATURES, jnp.int32(i))[..., 0] for i in (0, 2))
    assert first.tolist() == [[[2.0, 4.0], [6.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert not beyond.any()


def test_a_fold_without_features_passes_no_numbers():
    blocks = {"w": jnp.zeros((5, 2))}
    assert layer_numbers(None, blocks) == ()
    assert layer_numbers(STACK, blocks)[0].tolist() == [0, 1, 2, 3, 4]


STREAMS = {(4, 2, 2): "thwthwtt", (5, 1, 2): "thwttwtt", (2, 3, 3): "thwthwth"}


@pytest.mark.parametrize(("sections", "streams"), STREAMS.items())
def test_streams_of_positions_take_turns(sections, streams):
    """Eight frequencies: h and w each have every third one until theirs are used up, the rest is t's."""
    positions = jnp.array([[[1], [10], [100]]])
    rotary = interleaved_rotary(positions, 16, 1e4, sections)
    angle = np.array([{"t": 1, "h": 10, "w": 100}[s] for s in streams]) * np.asarray(inverse_frequencies(16, 1e4))
    np.testing.assert_allclose(rotary.cos[0, 0], np.cos([*angle, *angle]), atol=1e-5)
    np.testing.assert_allclose(rotary.sin[0, 0], np.sin([*angle, *angle]), atol=1e-5)


def test_queries_and_keys_are_normed_head_by_head_before_they_are_rotated():
    block = DecoderBlock.spec(8, 12, heads=2, kv_heads=1, head_dim=4, epsilon=0.0, bias=False, head_norms=True)
    rng = np.random.default_rng(0)
    block = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), block, is_leaf=is_weight)
    seen = {}

    def attend(q, k, v):
        seen.update(q=q, k=k, v=v)
        return jnp.zeros_like(q)

    x = jnp.asarray(rng.normal(size=(1, 3, 8)), jnp.float32)
    double = Rotary(2 * jnp.ones((1, 3, 4)), jnp.zeros((1, 3, 4)))
    block(x, double, attend)
    h = np.asarray(block.attention_norm(x))
    for name, linear, norm in (("q", block.query, block.query_norm), ("k", block.key, block.key_norm)):
        heads = (h @ np.asarray(linear.kernel)).reshape(1, 3, -1, 4)
        expected = heads / np.sqrt((heads**2).mean(-1, keepdims=True)) * np.asarray(norm.scale)
        np.testing.assert_allclose(seen[name], 2 * expected, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(seen["v"], (h @ np.asarray(block.value.kernel)).reshape(1, 3, 1, 4), rtol=1e-4)
    np.testing.assert_allclose(block.key_value(x, double)[0], seen["k"], rtol=1e-5)


def test_a_block_of_qwen3_has_norms_of_the_head_size_and_no_biases():
    old = DecoderBlock.spec(8, 12, heads=2, kv_heads=1, head_dim=4, epsilon=1e-6)
    new = DecoderBlock.spec(8, 12, heads=2, kv_heads=1, head_dim=4, epsilon=1e-6, bias=False, head_norms=True)
    assert count(new) == count(old) - (8 + 4 + 4) + 2 * 4
    joined = jax.tree.map(lambda w: jnp.zeros(w.shape), new, is_leaf=is_weight).join().joined
    assert joined.bias is None
    assert joined.kernel.shape == (8, 16)


def test_layer_norm():
    norm = LayerNorm(jnp.array([1.0, 2.0]), jnp.array([0.5, 0.0]), epsilon=0.0)
    np.testing.assert_allclose(norm(jnp.array([[1.0, 3.0]])), [[-0.5, 2.0]], rtol=1e-6)
