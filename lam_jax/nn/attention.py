"""Attention as mergeable parts: softmax attention over several key blocks equals the log-sum-exp merge of the parts.

That is what lets the G samples of a prompt share the prompt's keys and values (design.md section 4.8).
A query whose keys are all masked gets a zero output, as in torch's SDPA.
Scores of long rows are made for a block of queries at a time, so that they never fill a chip's memory.
Legend: B batch, G samples of a prompt, T queries, S keys, H heads, K kv heads, R = H / K, D head dimension.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from lam_jax.nn.axes import ANY, constrain, leading
from lam_jax.nn.layout import layout

# Far below any real score, yet finite: exp(floor - floor) must not be NaN for a row without keys.
FLOOR = -1e30
# Queries whose scores are held at a time, unless the layout says otherwise. Float32 scores of 16 heads take 33 KB a
# query at 512 keys, 134 KB at 2048.
QUERY_BLOCK = 512


class Part(struct.PyTreeNode):
    """Unnormalised attention over one key block: sum [.., K, R, T, D], mass and peak [.., K, R, T] (float32)."""

    sum: Array
    mass: Array
    peak: Array


def _product(x: Array, y: Array) -> Array:
    """[*B, K, *X, I] times [*B, K, I, J], in float32; *B and K of the latter may be joined into one dimension.

    One matrix product per kv head, operands as they are multiplied: XLA's CPU backend copies what it has to transpose.
    """
    if not layout().joined:
        inner = "abc"[: x.ndim - y.ndim + 1]
        return jnp.einsum(f"...k{inner}i,...kij->...k{inner}j", x, y, preferred_element_type=jnp.float32)
    rows = x.reshape(*y.shape[:-2], -1, x.shape[-1])
    return jnp.matmul(rows, y, preferred_element_type=jnp.float32).reshape(*x.shape[:-1], y.shape[-1])


def _part(q: Array, k: Array, v: Array, keep: Array) -> Part:
    """Softmax sums of queries [*B, K, *X, D] over keys [*B, K, D, S] and values [*B, K, S, D].

    `keep` broadcasts to the scores [*B, K, *X, S].
    """
    scores = jnp.where(keep, _product(q, k), FLOOR)
    # Any shift gives the same attention, so its gradient is zero; half the floor makes a row without keys weigh
    # nothing.
    peak = jax.lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=-1), FLOOR / 2))
    weights = jnp.exp(scores - peak[..., None])
    return Part(_product(weights.astype(v.dtype), v), jnp.sum(weights, axis=-1), peak)


def _heads_first(q: Array, kv_heads: int) -> Array:
    """[.., T, H, D] to [.., K, R, T, D], scaled, so that scores need no division."""
    *lead, length, heads, dim = q.shape
    q = q.reshape(*lead, length, kv_heads, heads // kv_heads, dim) * jnp.asarray(dim**-0.5, q.dtype)
    return jnp.moveaxis(q, -4, -2)


def cached_part(
    q: Float[Array, "*B T H D"],
    k: Float[Array, "*C D S"],
    v: Float[Array, "*C S D"],
    keep: Bool[Array, "*B T S"],
    kv_heads: int,
) -> Part:
    """Attention of each row's queries over its own keys, not yet normalised; keys and values in the cache's layout.

    *C is *B and K, as they are or joined into one dimension.
    """
    return _part(_heads_first(q, kv_heads), k, v, keep[..., None, None, :, :])


def part(
    q: Float[Array, "*B T H D"], k: Float[Array, "*B S K D"], v: Float[Array, "*B S K D"], keep: Bool[Array, "*B T S"]
) -> Part:
    """As `cached_part`, keys and values as a block makes them."""
    return cached_part(q, jnp.moveaxis(k, -3, -1), jnp.swapaxes(v, -3, -2), keep, k.shape[-2])


def cached_shared_part(
    q: Float[Array, "N G T H D"], k: Float[Array, "N K D S"], v: Float[Array, "N K S D"], keep: Bool[Array, "N S"]
) -> Part:
    """Attention of the G samples of each prompt over the prompt's keys, stored once: one product for all samples."""
    q = jnp.moveaxis(_heads_first(q, k.shape[1]), 1, 2)
    part = _part(q, k, v, keep[:, None, None, None, None, :])
    return jax.tree.map(lambda x: jnp.moveaxis(x, 2, 1), part)


def shared_part(
    q: Float[Array, "N G T H D"], k: Float[Array, "N S K D"], v: Float[Array, "N S K D"], keep: Bool[Array, "N S"]
) -> Part:
    """As `cached_shared_part`, keys and values as a block makes them."""
    return cached_shared_part(q, jnp.moveaxis(k, 1, -1), jnp.swapaxes(v, 1, 2), keep)


def merge(first: Part, second: Part) -> Part:
    """The part over both key blocks."""
    peak = jnp.maximum(first.peak, second.peak)
    one, two = jnp.exp(first.peak - peak), jnp.exp(second.peak - peak)
    return Part(first.sum * one[..., None] + second.sum * two[..., None], first.mass * one + second.mass * two, peak)


def finish(whole: Part, dtype: jnp.dtype) -> Float[Array, "*B T H D"]:
    """Divides by the mass (a row without keys has mass 0 and gives 0) and joins the heads."""
    y = whole.sum / jnp.where(whole.mass > 0, whole.mass, 1.0)[..., None]
    *lead, kv_heads, repeat, length, dim = y.shape
    return jnp.moveaxis(y, -2, -4).reshape(*lead, length, kv_heads * repeat, dim).astype(dtype)


def attention(
    q: Float[Array, "*B T H D"], k: Float[Array, "*B S K D"], v: Float[Array, "*B S K D"], keep: Bool[Array, "*B T S"]
) -> Float[Array, "*B T H D"]:
    """Grouped-query attention, softmax in float32. `keep` is True where a query may look at a key."""
    fused = layout().attend
    y = None if fused is None else fused(q, k, v, keep)
    if y is not None:
        return y
    return by_query_blocks(lambda q, keep: finish(part(q, k, v, keep), q.dtype), q, keep)


def attention_over_shared(
    q: Float[Array, "N G T H D"],
    k: Float[Array, "N G T K D"],
    v: Float[Array, "N G T K D"],
    keep: Bool[Array, "N G T T"],
    prompt_key: Float[Array, "N P K D"],
    prompt_value: Float[Array, "N P K D"],
    prompt_mask: Bool[Array, "N P"],
) -> Float[Array, "N G T H D"]:
    """Attention of the G samples of each prompt over the prompt's keys, which they share, and their own."""
    fused = layout().attend
    if fused is not None:
        # Few kv heads: a copy for every sample is small beside what the fused attention saves.
        def over_all(shared: Array, own: Array, axis: int) -> Array:
            shared = jnp.broadcast_to(shared, (*own.shape[:2], *shared.shape[2:]))
            return jnp.concatenate([shared, own], axis=axis)

        keys, values = (over_all(x[:, None], y, 2) for x, y in ((prompt_key, k), (prompt_value, v)))
        shape = (*keep.shape[:3], prompt_mask.shape[-1])
        keeps = jnp.concatenate([jnp.broadcast_to(prompt_mask[:, None, None], shape), keep], axis=-1)
        y = fused(q, keys, values, keeps)
        if y is not None:
            return y

    def over_both(q: Array, keep: Array) -> Array:
        return finish(merge(shared_part(q, prompt_key, prompt_value, prompt_mask), part(q, k, v, keep)), q.dtype)

    return by_query_blocks(over_both, q, keep)


def by_query_blocks(
    attend: Callable[[Array, Array], Array], q: Float[Array, "*B T H D"], keep: Bool[Array, "*B T S"]
) -> Float[Array, "*B T H D"]:
    """`attend(q, keep)`, for more queries than `Layout.query_block` in equal blocks one after the other.

    A block's scores are recomputed in the backward pass instead of kept. Every query sees all keys at once, so the
    result is the same. Leading dimensions are rows [B], or prompts and samples [N, G].
    """
    length = q.shape[-3]
    blocks = -(-length // (layout().query_block or QUERY_BLOCK))
    if blocks == 1:
        return attend(q, keep)
    size = -(-length // blocks)
    # Left alone the compiler gathers all samples of a prompt in the backward pass.
    lead = leading(q.ndim - 3)
    queries = constrain(_split(q, q.ndim - 3, blocks, size), None, *lead, None, ANY, None)
    keeps = constrain(_split(keep, keep.ndim - 2, blocks, size), None, *lead, None, None)

    @jax.checkpoint
    def one(block: tuple[Array, Array]) -> Array:
        return constrain(attend(*block), *lead, None, ANY, None)

    y = constrain(jax.lax.map(one, (queries, keeps)), None, *lead, None, ANY, None)
    y = jnp.moveaxis(y, 0, -4)
    return y.reshape(*y.shape[:-4], blocks * size, *y.shape[-2:])[..., :length, :, :]


def _split(x: Array, axis: int, blocks: int, size: int) -> Array:
    """Cuts an axis into blocks on a new leading axis; the surplus of the last one is zeros (False)."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, blocks * size - x.shape[axis])
    x = jnp.pad(x, padding)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], blocks, size, *x.shape[axis + 1 :]), axis, 0)


def causal(mask: Bool[Array, "*B L"]) -> Bool[Array, "*B L L"]:
    """Keep-mask of causal self-attention over rows whose real tokens are `mask`."""
    length = mask.shape[-1]
    order = jnp.arange(length)
    earlier = (order[:, None] >= order[None, :]).reshape((1,) * (mask.ndim - 1) + (length, length))
    return earlier & mask[..., None, :]
