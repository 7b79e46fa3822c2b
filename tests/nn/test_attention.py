"""Attention as mergeable parts against the plain formula. T queries, S keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn import attention as attn

HEADS, KV_HEADS, DIM = 4, 2, 8
FLOAT = jnp.dtype("float32")


def plain(q, k, v, keep):
    """softmax(q k / sqrt(d)) v with the kv heads repeated; a row without keys gives 0."""
    k, v = (jnp.repeat(x, HEADS // KV_HEADS, axis=-2) for x in (k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(DIM)
    weights = jax.nn.softmax(jnp.where(keep[:, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshd->bthd", jnp.where(keep[:, None], weights, 0.0), v)


@pytest.fixture(scope="module")
def inputs():
    """q [2, 5, H, D], k and v [2, 7, K, D], and a mask whose query (0, 3) sees no key."""
    rng = np.random.default_rng(0)
    q = 3 * rng.normal(size=(2, 5, HEADS, DIM)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 7, KV_HEADS, DIM)).astype(np.float32)
    keep = rng.random((2, 5, 7)) < 0.6
    keep[0, 3] = False
    q, k, v, keep = map(jnp.asarray, (q, k, v, keep))
    return q, k, v, keep


def test_equals_the_plain_formula_with_repeated_kv_heads(inputs):
    q, k, v, keep = inputs
    seen = keep.any(axis=-1)[..., None, None]
    expected = jnp.where(seen, plain(q, k, v, keep), 0.0)
    np.testing.assert_allclose(attn.attention(q, k, v, keep), expected, atol=1e-6)


def test_a_query_without_keys_gives_exactly_zero(inputs):
    assert not np.asarray(attn.attention(*inputs))[0, 3].any()


def test_merged_parts_equal_the_whole(inputs):
    """Also where one part, or both, hold no key for a query."""
    q, k, v, keep = inputs
    keep = keep.at[1, 2, :4].set(False).at[1, 4, 4:].set(False)
    parts = [attn.part(q, k[:, s], v[:, s], keep[:, :, s]) for s in (slice(0, 4), slice(4, 7))]
    for one, two in (parts, parts[::-1]):
        merged = attn.finish(attn.merge(one, two), FLOAT)
        np.testing.assert_allclose(merged, attn.attention(q, k, v, keep), atol=1e-6)


def test_shared_part_equals_repeating_the_prompt(inputs):
    """G = 3 samples of N = 2 prompts look at the prompt's 7 keys; one prompt is padding only."""
    _, k, v, _ = inputs
    q = jnp.asarray(np.random.default_rng(5).normal(size=(2, 3, 4, HEADS, DIM)).astype(np.float32))
    keep = jnp.array([[False, False, True, True, True, True, True], [False] * 7])
    shared = attn.finish(attn.shared_part(q, k, v, keep), FLOAT)
    for sample in range(3):
        each = attn.attention(q[:, sample], k, v, jnp.broadcast_to(keep[:, None], (2, 4, 7)))
        np.testing.assert_allclose(shared[:, sample], each, atol=1e-6)


def test_gradients_equal_those_of_the_plain_formula(inputs):
    """The peak is a constant under differentiation, although it depends on the scores."""
    q, k, v, keep = inputs
    keep = keep.at[0, 3, 0].set(True)
    weight = q[::-1]

    def gradients(function):
        return jax.jit(jax.grad(lambda q, k, v: jnp.sum(weight * function(q, k, v, keep)), (0, 1, 2)))(q, k, v)

    for ours, expected in zip(gradients(attn.attention), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_gradient_of_a_query_without_keys_is_zero(inputs):
    q, k, v, keep = inputs
    gradient = jax.jit(jax.grad(lambda q: attn.attention(q, k, v, keep).sum()))(q)
    assert np.isfinite(np.asarray(gradient)).all()
    assert not np.asarray(gradient)[0, 3].any()


def test_causal_mask_by_hand():
    """Left padding: nobody looks at the pad, and the pad itself looks at nothing."""
    keep = attn.causal(jnp.array([[False, True, True]]))
    assert keep.tolist() == [[[False, False, False], [False, True, False], [False, True, True]]]


@pytest.mark.parametrize("length", [5, 6, 7])
def test_blocks_of_queries_change_nothing(inputs, monkeypatch, length):
    """Blocks of 2 and 3 queries with and without a surplus, against all at once; gradients too."""
    q, k, v, keep = inputs
    q, keep = (jnp.concatenate([x, x], axis=1)[:, :length] for x in (q, keep))

    def outcome(size):
        monkeypatch.setattr(attn, "QUERY_BLOCK", size)

        def loss(q, k, v):
            return jnp.sum(jnp.sin(attn.attention(q, k, v, keep)))

        return attn.attention(q, k, v, keep), *jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    for block, whole in zip((x for size in (2, 3) for x in outcome(size)), outcome(length) * 2, strict=True):
        np.testing.assert_allclose(block, whole, rtol=1e-6, atol=1e-6)


def test_long_rows_never_hold_all_their_scores():
    """In the compiled gradient no array has both the length of the queries and that of the keys."""
    length = 2 * attn.QUERY_BLOCK + 10

    def loss(q, k, v, mask):
        return jnp.sum(attn.attention(q, k, v, attn.causal(mask)))

    q = jax.ShapeDtypeStruct((1, length, HEADS, DIM), FLOAT)
    kv = jax.ShapeDtypeStruct((1, length, KV_HEADS, DIM), FLOAT)
    mask = jax.ShapeDtypeStruct((1, length), jnp.bool_)
    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, kv, kv, mask).compile().as_text()
    assert f"f32[1,{KV_HEADS},{HEADS // KV_HEADS},{length},{length}]" not in text
    assert f"{length // 3 + 1},{length}]" in text
