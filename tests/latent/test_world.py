"""World model, readouts, straight-through choice and projector against hand-computed numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.code_model import inverse_shift, straight_through
from lam_jax.latent.world import MergeBlock, WorldModel, readout
from lam_jax.nn.layers import Linear, RMSNorm
from tests import tiny


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.fixture
def world():
    """Width 1, feed-forward 1: block i adds down_i * silu(x + 2 c) * (x - c)."""
    gate, up = (Linear(jnp.array([[[1.0], [w]]] * 2)) for w in (2.0, -1.0))
    return WorldModel(MergeBlock(gate, up, Linear(jnp.array([[[0.5]], [[3.0]]]))))


def test_merge_by_hand(world):
    x, c = 1.5, -0.5
    first = 0.5 * silu(x + 2 * c) * (x - c)
    y = x + first
    second = 3 * silu(y + 2 * c) * (y - c)
    merged, block = world(jnp.array([x]), jnp.array([c]))
    np.testing.assert_allclose(merged, [y + second], rtol=1e-6)
    np.testing.assert_allclose(block, [second], rtol=1e-6)


def test_the_tabulated_world_is_the_same_map(key):
    latent = tiny.agent().latent
    x = jax.random.normal(key, (2, 5, latent.codebook.shape[1]))
    action = jnp.arange(10, dtype=jnp.int32).reshape(2, 5) % latent.codebook.shape[0]
    expected = latent.world(x, latent.look_up(action))
    for got, want in zip(latent.world.tabulated(latent.codebook)(x, action), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_readouts_by_hand():
    """The norm of (3, 4) is (3, 4) / sqrt(12.5)."""
    norm = RMSNorm(jnp.ones(2), epsilon=0.0)
    start, merged, block = jnp.array([1.0, 1.0]), jnp.array([3.0, 4.0]), jnp.array([-4.0, 3.0])
    unit = np.array([3.0, 4.0]) / np.sqrt(12.5)
    np.testing.assert_allclose(readout("merged", start, merged, block, norm), unit, rtol=1e-6)
    np.testing.assert_allclose(readout("delta", start, merged, block, norm), unit - 1, rtol=1e-6)
    np.testing.assert_allclose(readout("block", start, merged, block, norm), [-unit[1], unit[0]], rtol=1e-6)
    gradient = jax.grad(lambda s: readout("delta", s, merged, block, norm).sum())(start)
    assert not gradient.any()


def test_inverse_shift_gives_each_position_the_output_after_it():
    logits = jnp.arange(6.0).reshape(1, 3, 2)
    assert inverse_shift(logits).tolist() == [[[2.0, 3.0], [4.0, 5.0], [4.0, 5.0]]]


def test_straight_through_is_one_hot_with_the_gradient_of_the_soft_choice():
    rng = np.random.default_rng(0)
    logits, noise, weight = (jnp.asarray(rng.normal(size=(2, 3, 4)).astype(np.float32)) for _ in range(3))
    choice = straight_through(logits, noise, tau=2.0)
    np.testing.assert_allclose(choice, jax.nn.one_hot(jnp.argmax(logits + noise, axis=-1), 4), atol=1e-7)
    np.testing.assert_allclose(straight_through(logits, None, 2.0).argmax(-1), logits.argmax(-1))
    ours = jax.grad(lambda x: jnp.sum(weight * straight_through(x, noise, 2.0)))(logits)
    expected = jax.grad(lambda x: jnp.sum(weight * jax.nn.softmax((x + noise) / 2.0, axis=-1)))(logits)
    np.testing.assert_allclose(ours, expected, atol=1e-7)


def test_projector_by_hand():
    net = tiny.agent().latent.projector
    x = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)

    def bottleneck(part):
        inner = np.tanh(x @ np.asarray(part.down.kernel) + np.asarray(part.down.bias))
        return inner @ np.asarray(part.up.kernel) + np.asarray(part.up.bias)

    np.testing.assert_allclose(net.mean(jnp.asarray(x)), bottleneck(net.mean), atol=1e-5)
    log_variance = net.log_variance(jnp.asarray(x))
    np.testing.assert_allclose(log_variance, np.tanh(bottleneck(net.log_variance_net)), atol=1e-5)


def test_the_projector_is_for_rows_without_an_image():
    latent = tiny.agent().latent
    states = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 32)).astype(np.float32))
    has_image = jnp.array([[True], [False]])
    x = latent.action_input(states, has_image)
    np.testing.assert_array_equal(x[0], states[0])
    np.testing.assert_array_equal(x[1], latent.projector.mean(states[1]))
    np.testing.assert_array_equal(latent.action_input(states, has_image, project=False), states)


def test_codes_are_codebook_rows():
    latent = tiny.agent().latent
    actions = jnp.array([[3, 0]], jnp.int32)
    expected = latent.codebook[jnp.array([[3, 0]])]
    np.testing.assert_array_equal(latent.look_up(actions), expected)
    np.testing.assert_allclose(latent.code(jax.nn.one_hot(actions, 8)), expected, atol=1e-7)
