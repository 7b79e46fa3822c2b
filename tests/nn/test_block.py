"""A stack of decoder blocks run in full, with shared prompts and one token at a time gives the same numbers.

N prompts, G samples of a prompt, P prompt length, T completion length.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn import block, kv_cache, stack
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import split_layers
from tests import tiny

N, G, P, T, WIDTH = 2, 3, 5, 4, 32

pytestmark = pytest.mark.usefixtures("quick_compilation")


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


def shared(blocks, prompt, sample, prompt_mask, sample_mask, remat=False):
    rotaries = rotary(PROMPT_POSITIONS, N, P), rotary(SAMPLE_POSITIONS, N, G, T)
    return block.run_shared(blocks, prompt, sample, *rotaries, prompt_mask, sample_mask, remat=remat)


@pytest.fixture(params=["unrolled", "scanned"])
def either_stack(request, monkeypatch):
    """Stacks of any size as small ones, and as large ones."""
    monkeypatch.setattr(stack, "UNROLLED_WEIGHTS", {"unrolled": 2**40, "scanned": 0}[request.param])


@pytest.mark.usefixtures("either_stack")
def test_run_shared_equals_concatenated_rows(blocks, prompts, samples):
    prompt, sample = jax.jit(lambda *given: shared(*given))(blocks, prompts[0], samples[0], prompts[1], samples[1])
    rows = jax.jit(concatenated)(blocks, prompts[0], samples[0], prompts[1], samples[1])
    np.testing.assert_allclose(sample, rows[:, :, P:], atol=1e-5)
    for g in range(G):
        np.testing.assert_allclose(prompt, rows[:, g, P - 1], atol=1e-5)


@pytest.mark.usefixtures("either_stack")
def test_gradients_of_run_shared_equal_those_of_concatenated_rows(blocks, prompts, samples):
    """Of the weights and of the prompt, with recomputation; the loss reads what `run_shared` returns."""
    weight = jnp.where(samples[1][..., None], samples[0][::-1], 0.0)

    def loss_shared(blocks, prompt):
        end, sample = shared(blocks, prompt, samples[0], prompts[1], samples[1], remat=True)
        return jnp.sum(weight * sample) + jnp.sum(jnp.sin(end))

    def loss_rows(blocks, prompt):
        rows = concatenated(blocks, prompt, samples[0], prompts[1], samples[1])
        return jnp.sum(weight * rows[:, :, P:]) + jnp.sum(jnp.sin(rows[:, 0, P - 1]))

    ours, expected = (jax.jit(jax.grad(loss, (0, 1)))(blocks, prompts[0]) for loss in (loss_shared, loss_rows))
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * max(1.0, float(abs(want).max())))


@pytest.mark.parametrize("split", [False, True])
def test_cached_decode_equals_the_full_forward(blocks, prompts, samples, split):
    """Layers stacked, and apart."""

    @jax.jit
    def decoded(blocks, prompt, sample):
        _, kv = block.prefill(blocks, prompt, rotary(PROMPT_POSITIONS, N, P), prompts[1])
        cache = KVCache.create(kv, prompts[1], G, T, split)
        blocks = split_layers(blocks) if split else blocks
        out = []
        for t in range(T):
            place = rotary([P + t], N, G, 1)
            x, cache = kv_cache.decode(blocks, cache, sample[:, :, t : t + 1], place, jnp.int32(t))
            out.append(x)
        return jnp.concatenate(out, axis=2)

    rows = jax.jit(concatenated)(blocks, prompts[0], samples[0], prompts[1], jnp.ones((N, G, T), bool))
    np.testing.assert_allclose(decoded(blocks, prompts[0], samples[0]), rows[:, :, P:], atol=1e-5)
