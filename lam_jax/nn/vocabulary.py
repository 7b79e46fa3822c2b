"""Reading out of arrays whose last dimension is a vocabulary that lies in shards: nothing is gathered.

On one device these are the plain operations. Legend: V vocabulary (or number of actions), S indices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lam_jax.nn.axes import constrain_last, is_sharded, local_shape


def pick(values: Float[Array, "*B V"], index: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """`values[.., index]`."""
    return pick_many(values, index[..., None])[..., 0]


def pick_many(values: Float[Array, "*B V"], indices: Int[Array, "*B S"]) -> Float[Array, "*B S"]:
    """`values[.., indices[.., s]]` for every s."""
    if not is_sharded():
        return jnp.take_along_axis(values, indices, axis=-1)
    # A gather would collect the shards; a sum over V in which one term counts is fused and stays where the shards are.
    number = jax.lax.broadcasted_iota(indices.dtype, (*(1,) * indices.ndim, values.shape[-1]), indices.ndim)
    return jnp.sum(jnp.where(indices[..., None] == number, values[..., None, :], 0.0), axis=-1)


def top_k(values: Float[Array, "*B V"], count: int) -> tuple[Float[Array, "*B S"], Int[Array, "*B S"]]:
    """The S=count largest of a vocabulary and their indices, the largest first, of equals the earlier one.

    Each shard finds its own; what is gathered is `count` candidates a shard.

    Raises:
        ValueError: a shard holds less than `count`, so that the whole vocabulary would have to be gathered.
    """
    vocab = values.shape[-1]
    (own,) = local_shape((vocab,), "vocab")
    if own == vocab:
        return jax.lax.top_k(values, count)
    if count > own:
        raise ValueError(
            f"The {count} likeliest of {vocab} tokens in shards of {own}: every step would gather all logits. Set a "
            f"top_k of at most {own} (top_p then works on those), or choose a smaller tensor axis."
        )
    shards = constrain_last(values.reshape(*values.shape[:-1], vocab // own, own), "vocab", None)
    best, index = jax.lax.top_k(shards, count)
    index = index + own * jax.lax.broadcasted_iota(index.dtype, index.shape, index.ndim - 2)
    best, index = (constrain_last(x.reshape(*x.shape[:-2], -1), None) for x in (best, index))
    best, place = jax.lax.top_k(best, count)
    return best, jnp.take_along_axis(index, place, axis=-1)
