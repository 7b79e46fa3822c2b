"""Attention by cuDNN, with XLA's own formula in the place of the library: what goes in, what comes out.

The library itself runs in the item `equality` of `python -m benchmarks.accelerator`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.gpu.attention import fused_attention
from lam_jax.nn import attention as attn
from lam_jax.nn.layout import Layout, laid_out_by

N, G, T, P, HEADS, KV_HEADS, DIM = 2, 3, 4, 6, 4, 2, 8


@pytest.fixture(autouse=True)
def no_cudnn(monkeypatch):
    """`dot_product_attention` without the library; it asks for exactly what cuDNN would be asked for."""
    real = jax.nn.dot_product_attention

    def instead(q, k, v, *, mask, implementation):
        assert implementation == "cudnn"
        assert q.dtype == jnp.bfloat16
        assert mask.shape == (q.shape[0], 1, q.shape[1], k.shape[1])
        return real(q, k, v, mask=mask, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    with jax.numpy_dtype_promotion("standard"):  # jax's formula needs it
        yield


def drawn(*shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


def formula(q, k, v, keep):
    """In float64, one query at a time; no key, no value."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for row, query, head in np.ndindex(q.shape[:3]):
        seen = np.flatnonzero(np.asarray(keep)[row, query])
        if len(seen):
            kv = head // (HEADS // KV_HEADS)
            scores = k[row, seen, kv] @ q[row, query, head] / np.sqrt(DIM)
            weights = np.exp(scores - scores.max())
            out[row, query, head] = weights @ v[row, seen, kv] / weights.sum()
    return out


def test_equals_the_formula_and_a_query_without_keys_gives_zero():
    q, k, v = drawn(2, T, HEADS, DIM, seed=0), drawn(2, P, KV_HEADS, DIM, seed=1), drawn(2, P, KV_HEADS, DIM, seed=2)
    keep = jnp.asarray(np.random.default_rng(3).random((2, T, P)) < 0.5).at[0, 1].set(False)
    with laid_out_by(Layout(attend=fused_attention)):
        y = attn.attention(q, k, v, keep)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), formula(q, k, v, keep), atol=0.02)
    assert not np.asarray(y)[0, 1].any()


def test_no_gradient_comes_from_a_query_without_keys():
    q, k, v = drawn(1, T, HEADS, DIM, seed=0), drawn(1, P, KV_HEADS, DIM, seed=1), drawn(1, P, KV_HEADS, DIM, seed=2)
    keep = jnp.zeros((1, T, P), bool)
    gradients = jax.grad(lambda *x: jnp.sum(fused_attention(*x, keep).astype(jnp.float32)), (0, 1, 2))(q, k, v)
    assert all(not np.asarray(g, np.float32).any() for g in gradients)


def test_samples_over_a_shared_prompt_equal_the_formula_over_both():
    """One prompt is left-padded, one is padding only; samples see it and their own past."""
    q, k, v = (drawn(N, G, T, h, DIM, seed=s) for s, h in enumerate((HEADS, KV_HEADS, KV_HEADS)))
    key, value = drawn(N, P, KV_HEADS, DIM, seed=5), drawn(N, P, KV_HEADS, DIM, seed=6)
    prompt = np.array([[0, 0, 1, 1, 1, 1], [0] * 6], bool)
    own = np.broadcast_to(np.tril(np.ones((T, T), bool)), (N, G, T, T)).copy()
    own[1, 2] = False
    with laid_out_by(Layout(attend=fused_attention)):
        y = attn.attention_over_shared(q, k, v, jnp.asarray(own), key, value, jnp.asarray(prompt))
    for n, g in np.ndindex(N, G):
        keys, values = (np.concatenate([a[n], b[n, g]])[None] for a, b in ((key, k), (value, v)))
        keep = np.concatenate([np.broadcast_to(prompt[n], (T, P)), own[n, g]], axis=1)[None]
        expected = formula(q[n, g][None], keys, values, keep)[0]
        np.testing.assert_allclose(np.asarray(y[n, g], np.float64), expected, atol=0.02)


@pytest.mark.parametrize(
    ("dtype", "queries", "dim"), [("float32", 4, 8), ("bfloat16", 3, 8), ("bfloat16", 4, 12), ("bfloat16", 4, 136)]
)
def test_what_the_library_cannot_is_left_to_the_plain_path(dtype, queries, dim):
    q = jnp.ones((1, queries, HEADS, dim), dtype)
    k = jnp.ones((1, P, KV_HEADS, dim), dtype)
    keep = jnp.ones((1, queries, P), bool)
    assert fused_attention(q, k, k, keep) is None
    with laid_out_by(Layout(attend=fused_attention)):
        np.testing.assert_allclose(np.asarray(attn.attention(q, k, k, keep), np.float32), 1.0)
