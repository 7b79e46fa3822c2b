"""Attention as mergeable parts: softmax attention over several key blocks equals the log-sum-exp merge of the parts.

That is what lets the G samples of a prompt share the prompt's keys and values (DESIGN.md, two-part caches).
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

# Far below any real score, yet finite: exp(floor - floor) must not be NaN for a row without keys.
FLOOR = -1e30
# Queries whose scores are held at a time. Float32 scores of 16 heads take 33 KB a query at 512 keys, 134 KB at 2048.
QUERY_BLOCK = 512


class Part(struct.PyTreeNode):
    """Unnormalised attention over one key block: sum [.., T, K, R, D], mass and peak [.., T, K, R] (float32)."""

    sum: Array
    mass: Array
    peak: Array


def _part(scores: Array, keep: Array, values: Array, equation: str) -> Part:
    """`scores` is float32 [.., K, R, T, S]; `keep` broadcasts to it; `equation` contracts weights with values."""
    scores = jnp.where(keep, scores, FLOOR)
    # Any shift gives the same attention, so its gradient is zero; half the floor makes a row without keys weigh
    # nothing.
    peak = jax.lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=-1), FLOOR / 2))
    weights = jnp.exp(scores - peak[..., None])
    mass = jnp.moveaxis(jnp.sum(weights, axis=-1), -1, -3)
    total = jnp.einsum(equation, weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return Part(total, mass, jnp.moveaxis(peak, -1, -3))


def _grouped(q: Array, kv_heads: int) -> Array:
    """Splits H into [K, R] and scales, so that scores need no division."""
    *lead, heads, dim = q.shape
    return q.reshape(*lead, kv_heads, heads // kv_heads, dim) * jnp.asarray(dim**-0.5, q.dtype)


def part(
    q: Float[Array, "*B T H D"], k: Float[Array, "*B S K D"], v: Float[Array, "*B S K D"], keep: Bool[Array, "*B T S"]
) -> Part:
    """Attention of each row's queries over its own keys, not yet normalised."""
    scores = jnp.einsum("...tkrd,...skd->...krts", _grouped(q, k.shape[-2]), k, preferred_element_type=jnp.float32)
    return _part(scores, keep[..., None, None, :, :], v, "...krts,...skd->...tkrd")


def shared_part(
    q: Float[Array, "N G T H D"], k: Float[Array, "N S K D"], v: Float[Array, "N S K D"], keep: Bool[Array, "N S"]
) -> Part:
    """Attention of the G samples of each prompt over the prompt's keys, stored once."""
    scores = jnp.einsum("ngtkrd,nskd->ngkrts", _grouped(q, k.shape[-2]), k, preferred_element_type=jnp.float32)
    return _part(scores, keep[:, None, None, None, None, :], v, "ngkrts,nskd->ngtkrd")


def merge(first: Part, second: Part) -> Part:
    """The part over both key blocks."""
    peak = jnp.maximum(first.peak, second.peak)
    one, two = jnp.exp(first.peak - peak), jnp.exp(second.peak - peak)
    return Part(first.sum * one[..., None] + second.sum * two[..., None], first.mass * one + second.mass * two, peak)


def finish(whole: Part, dtype: jnp.dtype) -> Float[Array, "*B T H D"]:
    """Divides by the mass (a row without keys has mass 0 and gives 0) and joins the heads."""
    y = whole.sum / jnp.where(whole.mass > 0, whole.mass, 1.0)[..., None]
    *lead, kv_heads, repeat, dim = y.shape
    return y.reshape(*lead, kv_heads * repeat, dim).astype(dtype)


def attention(
    q: Float[Array, "*B T H D"], k: Float[Array, "*B S K D"], v: Float[Array, "*B S K D"], keep: Bool[Array, "*B T S"]
) -> Float[Array, "*B T H D"]:
    """Grouped-query attention, softmax in float32. `keep` is True where a query may look at a key."""
    return by_query_blocks(lambda q, keep: finish(part(q, k, v, keep), q.dtype), q, keep)


def by_query_blocks(
    attend: Callable[[Array, Array], Array], q: Float[Array, "*B T H D"], keep: Bool[Array, "*B T S"]
) -> Float[Array, "*B T H D"]:
    """`attend(q, keep)`, for more than `QUERY_BLOCK` queries in equal blocks one after the other.

    A block's scores are recomputed in the backward pass instead of kept. Every query sees all keys at once, so the
    result is the same. Leading dimensions are rows [B], or prompts and samples [N, G].
    """
    length = q.shape[-3]
    blocks = -(-length // QUERY_BLOCK)
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
