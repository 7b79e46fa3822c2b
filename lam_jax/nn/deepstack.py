"""DeepStack: features of a picture that are added to the states after the first blocks of a decoder (Qwen3-VL).

Legend: E blocks, B rows, L length, M picture tokens of a row, D width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lam_jax.nn.axes import constrain_rows
from lam_jax.nn.stack import Layers, depth
from lam_jax.nn.weight import Param


class DeepStack(struct.PyTreeNode):
    """What is added after each of the first E blocks, and at which positions of the rows.

    Features lie as the vision tower makes them: one for every position would be several times as much, in all blocks.
    """

    features: Param  # [E, B, M, D]
    index: Array  # int [B, L], which of the M stands at a position
    where: Array  # bool [B, L], picture tokens

    def __call__(self, x: Float[Array, "B L D"], layer: Int[Array, ""]) -> Float[Array, "B L D"]:
        """States after block `layer`, with its features."""
        return self.where_added(lambda x: self.added(x, layer), x, layer)

    def where_added(self, add: Callable[[Array], Array], x: Array, layer: Int[Array, ""]) -> Array:
        """`add(x)` after one of the first blocks, else `x`: no other block pays for it."""
        return jax.lax.cond(layer < self.features.shape[0], add, lambda x: x, x)

    def added(self, x: Float[Array, "B L D"], layer: Int[Array, ""]) -> Float[Array, "B L D"]:
        """As `__call__` for one of the first blocks."""
        own = jax.lax.dynamic_index_in_dim(self.features, layer, axis=0, keepdims=False)
        return x + placed(own, self.index, self.where).astype(x.dtype)

    def last(self, x: Float[Array, "B 1 D"], layer: Int[Array, ""]) -> Float[Array, "B 1 D"]:
        """As `__call__` for the rows' last position alone."""
        return self.replace(index=self.index[:, -1:], where=self.where[:, -1:])(x, layer)


def placed(
    features: Float[Array, "B M D"], index: Int[Array, "B L"], where: Bool[Array, "B L"]
) -> Float[Array, "B L D"]:
    """Features at their positions, zeros elsewhere."""
    filled = jnp.take_along_axis(features, index[:, :, None], axis=1)
    return constrain_rows(jnp.where(where[:, :, None], filled, jnp.zeros((), filled.dtype)))


def layer_numbers(deepstack: DeepStack | None, blocks: Layers) -> tuple[Int[Array, " layers"], ...]:
    """What a fold over blocks passes each of them besides its weights; nothing where nothing is added."""
    if deepstack is None:
        return ()
    return (jnp.arange(depth(blocks), dtype=jnp.int32),)
