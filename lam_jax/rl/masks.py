"""Which tokens of a completion count."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def completion_mask(tokens: Int[Array, "*B T"], eos_id: int) -> Bool[Array, "*B T"]:
    """True up to and including the first `eos_id` of each completion; everywhere if there is none."""
    is_eos = (tokens == eos_id).astype(jnp.int32)
    ended_before = jnp.cumsum(is_eos, axis=-1) - is_eos
    return ended_before == 0
