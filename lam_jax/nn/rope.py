"""Rotary position embeddings: 1-D, multimodal (chunked M-RoPE) and the vision tower's 2-D form.

Legend: B batch, L length, P patches, H heads, D head dimension.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int


class Rotary(struct.PyTreeNode):
    """Cosines and sines [*batch, L, D] of some positions; calling it rotates queries or keys [*batch, L, H, D]."""

    cos: Array
    sin: Array

    def __call__(self, x: Float[Array, "*batch L H D"]) -> Float[Array, "*batch L H D"]:
        """Rotates the pairs (i, i + D/2) of every head."""
        first, second = jnp.split(x, 2, axis=-1)
        rotated = jnp.concatenate([-second, first], axis=-1)
        cos, sin = self.cos[..., None, :].astype(x.dtype), self.sin[..., None, :].astype(x.dtype)
        return x * cos + rotated * sin


def _rotary(angles: Float[Array, "*batch L half"]) -> Rotary:
    angles = jnp.concatenate([angles, angles], axis=-1)
    return Rotary(jnp.cos(angles), jnp.sin(angles))


def inverse_frequencies(size: int, theta: float) -> Float[Array, " half"]:
    """`theta ** -(2 i / size)` for i in [0, size/2), in float32."""
    return 1.0 / jnp.float32(theta) ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size)


def multimodal_rotary(
    positions: Int[Array, "*batch 3 L"], head_dim: int, theta: float, sections: tuple[int, ...]
) -> Rotary:
    """M-RoPE (Qwen2-VL, section 2.1): frequency chunk i of the half dimension turns with stream i of (t, h, w).

    `sections` are the chunk sizes; they sum to head_dim / 2. Equal streams give ordinary 1-D RoPE.
    """
    stream = jnp.repeat(jnp.arange(len(sections)), jnp.array(sections), total_repeat_length=head_dim // 2)
    return _by_stream(positions, stream, head_dim, theta)


def interleaved_rotary(
    positions: Int[Array, "*batch 3 L"], head_dim: int, theta: float, sections: tuple[int, ...]
) -> Rotary:
    """M-RoPE whose streams (t, h, w) take turns (Qwen3-VL): frequencies t h w t h w .. and, when h and w have all
    that `sections` gives them, t to the end. Equal streams give ordinary 1-D RoPE.
    """
    number = jnp.arange(head_dim // 2, dtype=jnp.int32)
    turn = number % len(sections)
    stream = jnp.where(number < len(sections) * jnp.take(jnp.array(sections, jnp.int32), turn), turn, 0)
    return _by_stream(positions, stream, head_dim, theta)


def _by_stream(positions: Array, stream: Int[Array, " half"], head_dim: int, theta: float) -> Rotary:
    """Frequency i turns with the stream of positions that `stream` names."""
    frequencies = inverse_frequencies(head_dim, theta)
    chosen = jnp.take(positions, stream, axis=-2).astype(jnp.float32)
    angles = jnp.swapaxes(chosen, -1, -2) * frequencies.reshape((1,) * (positions.ndim - 1) + frequencies.shape)
    return _rotary(angles)


def grid_rotary(patch_hw: Int[Array, "*batch P 2"], head_dim: int, theta: float = 10000.0) -> Rotary:
    """2-D RoPE of the vision tower: the first half of the angles from the patch row, the second from its column."""
    frequencies = inverse_frequencies(head_dim // 2, theta)
    frequencies = frequencies.reshape((1,) * patch_hw.ndim + frequencies.shape)
    angles = patch_hw.astype(jnp.float32)[..., None] * frequencies
    return _rotary(angles.reshape(*patch_hw.shape[:-1], head_dim // 2))
