"""Which tokens of a completion count."""

from collections.abc import Collection

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def is_end(tokens: Int[Array, "*B"], eos_ids: int | Collection[int]) -> Bool[Array, "*B"]:
    """Whether a token is one of those that end an answer."""
    ids = (eos_ids,) if isinstance(eos_ids, int) else tuple(eos_ids)
    ends = tokens == ids[0]
    for other in ids[1:]:
        ends = ends | (tokens == other)
    return ends


def completion_mask(tokens: Int[Array, "*B T"], eos_ids: int | Collection[int]) -> Bool[Array, "*B T"]:
    """True up to and including the first of `eos_ids` in each completion; everywhere if there is none."""
    ends = is_end(tokens, eos_ids).astype(jnp.int32)
    ended_before = jnp.cumsum(ends, axis=-1) - ends
    return ended_before == 0


def ends_well(
    tokens: Int[Array, "*B T"], mask: Bool[Array, "*B T"], eos_ids: int | Collection[int]
) -> Bool[Array, "*B"]:
    """Whether the last token under the mask ends an answer, in the last allowed place too; False if there is none.

    Args:
        tokens: completions.
        mask: their tokens, from the first on.
        eos_ids: what ends an answer.
    """
    last = jnp.sum(mask, axis=-1, dtype=jnp.int32) - 1
    token = jnp.take_along_axis(tokens, jnp.maximum(last, 0)[..., None], axis=-1)[..., 0]
    return is_end(token, eos_ids) & (last >= 0)
