"""Reading out of arrays whose last dimension is a vocabulary that lies in shards: nothing is gathered.

On one device these are the plain operations. Legend: V vocabulary (or number of actions), S indices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lam_jax.nn.axes import is_sharded


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
