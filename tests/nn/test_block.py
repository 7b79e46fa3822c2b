"""A stack of decoder blocks run in full, with shared prompts and one token at a time gives the same numbers.

N prompts, G samples of a prompt, P prompt length, T completion length.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from lam_jax.aot.flops import count_flops
from lam_jax.nn import block, kv_cache
from lam_jax.nn.kv_cache import KVCache, decoding_layers
from lam_jax.nn.layers import Linear
from lam_jax.nn.layout import PLAIN, Layout, laid_out_by
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import is_apart, require_remat
from tests import tiny

N, G, P, T, WIDTH = 2, 3, 5, 4, 32


@pytest.fixture(scope="module")
def blocks():
    return tiny.agent().backbone.blocks


@pytest.fixture(scope="module")
def prompts():
    """States, and a mask with two pads on the left of the second prompt."""
    mask = np.ones((N, P), bool)
    mask[1, :2] = False
    return normal(1, N, P, WIDTH), jnp.asarray(mask)


@pytest.fixture(scope="module")
def samples():
    """States, and a mask with a pad on the right of one sample."""
    mask = np.ones((N, G, T), bool)
    mask[0, 1, 3] = False
    return normal(2, N, G, T, WIDTH), jnp.asarray(mask)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def rotary(start, *lead) -> Rotary:
    """Rotary of positions start, start + 1, ..., the same in all three streams."""
    positions = jnp.broadcast_to(jnp.asarray(start, jnp.int32), lead)
    return tiny.agent().backbone.rotary(jnp.stack([positions] * 3, axis=-2))


PROMPT_POSITIONS, SAMPLE_POSITIONS = range(P), range(P, P + T)


def concatenated(blocks, prompt, sample, prompt_mask, sample_mask):
    """The N x G rows one by one: prompt and completion side by side."""
    spread = jnp.repeat(prompt[:, None], G, axis=1)
    mask = jnp.concatenate([jnp.repeat(prompt_mask[:, None], G, axis=1), sample_mask], axis=2)
    x = jnp.concatenate([spread, sample], axis=2).reshape(N * G, P + T, WIDTH)
    out = block.run(blocks, x, rotary(range(P + T), N * G, P + T), mask.reshape(N * G, -1))
    return out.reshape(N, G, P + T, WIDTH)


def shared(layout, blocks, prompt, sample, prompt_mask, sample_mask, remat=False):
    rotaries = rotary(PROMPT_POSITIONS, N, P), rotary(SAMPLE_POSITIONS, N, G, T)
    with laid_out_by(layout):
        return block.run_shared(blocks, prompt, sample, *rotaries, prompt_mask, sample_mask, remat=remat)


class Columns(struct.PyTreeNode):
    """A map laid out otherwise."""

    columns: Any
    bias: Any

    @property
    def inputs(self):
        return self.columns.shape[1]

    def __call__(self, x):
        y = jnp.einsum("...d,od->...o", x, self.columns)
        return y if self.bias is None else y + self.bias.reshape(*(1,) * (y.ndim - 1), -1)


def in_columns(linear: Linear) -> Columns | None:
    """Those that read a state; the others stay as they are."""
    return Columns(linear.kernel.T, linear.bias) if linear.inputs == WIDTH else None


ALL = 2**40  # weights: stacks of any size are unrolled
LAYOUTS = {
    "plain": PLAIN,
    "unrolled": Layout(unrolled=ALL),
    "joined": Layout(joined=True),
    "joined and unrolled": Layout(joined=True, unrolled=ALL),
}
PACKED = Layout(True, ALL, pack=in_columns)
by_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@by_layout
def test_run_shared_equals_concatenated_rows(layout, blocks, prompts, samples):
    given = (blocks, prompts[0], samples[0], prompts[1], samples[1])
    prompt, sample = jax.jit(functools.partial(shared, layout))(*given)
    rows = jax.jit(concatenated)(*given)
    np.testing.assert_allclose(sample, rows[:, :, P:], atol=1e-5)
    for g in range(G):
        np.testing.assert_allclose(prompt, rows[:, g, P - 1], atol=1e-5)


@by_layout
@pytest.mark.parametrize("remat", [True, "products"])
def test_gradients_of_run_shared_equal_those_of_concatenated_rows(layout, remat, blocks, prompts, samples):
    """Of the weights and of the prompt, with recomputation; the loss reads what `run_shared` returns."""
    weight = jnp.where(samples[1][..., None], samples[0][::-1], 0.0)

    def loss_shared(blocks, prompt):
        end, sample = shared(layout, blocks, prompt, samples[0], prompts[1], samples[1], remat)
        return jnp.sum(weight * sample) + jnp.sum(jnp.sin(end))

    def loss_rows(blocks, prompt):
        rows = concatenated(blocks, prompt, samples[0], prompts[1], samples[1])
        return jnp.sum(weight * rows[:, :, P:]) + jnp.sum(jnp.sin(rows[:, 0, P - 1]))

    ours, expected = (jax.jit(jax.grad(loss, (0, 1)))(blocks, prompts[0]) for loss in (loss_shared, loss_rows))
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * max(1.0, float(abs(want).max())))


def test_recomputing_all_but_products_multiplies_no_weight_again(blocks, prompts, samples):
    """In FLOPs of a gradient: attention is repeated, at these sizes a small part."""

    def flops(remat):
        def loss(blocks):
            return jnp.sum(shared(PLAIN, blocks, prompts[0], samples[0], prompts[1], samples[1], remat)[1])

        return count_flops(jax.make_jaxpr(jax.grad(loss))(blocks))

    weights = sum(leaf.size for leaf in jax.tree.leaves(blocks) if leaf.ndim == 3)
    whole = 2 * weights * N * (P + G * T)
    assert flops(False) < flops("products") < flops(True)
    # Of a whole repetition the two last products of a layer are left out, whose results nothing asks for.
    assert flops(True) - flops("products") <= whole
    assert flops("products") - flops(False) < 0.2 * whole


@pytest.mark.parametrize("layout", [*LAYOUTS.values(), PACKED], ids=[*LAYOUTS, "packed"])
def test_cached_decode_equals_the_full_forward(layout, blocks, prompts, samples):
    @jax.jit
    def decoded(blocks, prompt, sample):
        with laid_out_by(layout):
            _, kv = block.prefill(blocks, prompt, rotary(PROMPT_POSITIONS, N, P), prompts[1])
            cache = KVCache.create(kv, prompts[1], G, T, is_apart(blocks))
            blocks = decoding_layers(blocks)
            out = []
            for t in range(T):
                place = rotary([P + t], N, G, 1)
                x, cache = kv_cache.decode(blocks, cache, sample[:, :, t : t + 1], place, jnp.int32(t))
                out.append(x)
            return jnp.concatenate(out, axis=2)

    rows = jax.jit(concatenated)(blocks, prompts[0], samples[0], prompts[1], jnp.ones((N, G, T), bool))
    np.testing.assert_allclose(decoded(blocks, prompts[0], samples[0]), rows[:, :, P:], atol=1e-5)


def test_decoding_layers_lie_as_the_layout_says(blocks):
    def laid_out(layout):
        with laid_out_by(layout):
            return decoding_layers(blocks)

    assert laid_out(PLAIN) is blocks
    assert laid_out(Layout(joined=True)) is blocks  # a scan needs them stacked
    apart = laid_out(LAYOUTS["unrolled"])
    assert [layer.query.kernel.shape for layer in apart] == [(WIDTH, WIDTH)] * 2
    both, columns = laid_out(LAYOUTS["joined and unrolled"]), laid_out(PACKED)
    assert [layer.query for layer in both] == [None] * 2
    np.testing.assert_array_equal(both[1].joined.kernel[:, :WIDTH], apart[1].query.kernel)
    assert isinstance(columns[1].joined, Columns)
    assert isinstance(columns[1].mlp.down, Linear)


@pytest.mark.parametrize("value", ["product", None, 1])
def test_what_is_no_remat_is_refused(value):
    with pytest.raises(ValueError, match=rf"RLSettings.remat is {value!r}, expected False, True or 'products'"):
        require_remat("RLSettings.remat", value)
