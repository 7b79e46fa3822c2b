"""Gumbel noise, the same as `jax.random.gumbel` draws, in one expression that XLA fuses.

jax's threefry keeps its rounds in a loop on CPUs, where every round goes through memory: at 8 rows of 8192 tokens it
took 2.7 times as long. Every number comes from its own index, so shards of the actions compute their own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # threefry2x32, Salmon et al. 2011
PARITY = 0x1BD11BDA


def each(function: Callable[[Array], Array], values: Array) -> Array:
    """Maps over all dimensions, without joining them: they may lie on different mesh axes."""
    for _ in range(values.ndim):
        function = jax.vmap(function)
    return function(values)


def gumbel_noise(keys: Key[Array, "*B"], width: int) -> Float32[Array, "*B K"]:
    """Independent standard Gumbel numbers, K=width for each key.

    Equal to `jax.random.gumbel(key, (width,))` to the last bit where keys are threefry keys, jax's default; of other
    keys they are drawn by jax.
    """
    if str(jax.random.key_impl(keys)) != "threefry2x32":
        return each(lambda key: jax.random.gumbel(key, (width,), jnp.float32), keys)
    mantissa = _threefry(jax.random.key_data(keys)[..., None, :], width) >> 9
    uniform = jax.lax.bitcast_convert_type(mantissa | jnp.uint32(0x3F800000), jnp.float32) - 1.0  # in [0, 1)
    tiny = jnp.finfo(jnp.float32).tiny
    return -jnp.log(-jnp.log(jnp.maximum(tiny, uniform * (1.0 - tiny) + tiny)))


def _threefry(words: UInt32[Array, "*B 1 2"], width: int) -> UInt32[Array, "*B K"]:
    """32 bits of each key for each index below `width`: 20 rounds over the counter (0, index), both halves joined."""
    first, second = words[..., 0], words[..., 1]
    schedule = (first, second, first ^ second ^ jnp.uint32(PARITY))
    index = jax.lax.broadcasted_iota(jnp.uint32, (*words.shape[:-2], width), words.ndim - 2)
    a, b = jnp.broadcast_to(first, index.shape), index + second
    for turn in range(5):
        for distance in ROTATIONS[turn % 2]:
            a = a + b
            b = ((b << distance) | (b >> (32 - distance))) ^ a
        a = a + schedule[(turn + 1) % 3]
        b = b + schedule[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return a ^ b
