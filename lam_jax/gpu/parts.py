"""A product with a weight that is not added up yet, as the kernels of a decode step hand it on.

Legend: B leading dimensions, S parts, O out.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


class Parts(struct.PyTreeNode):
    """Partial sums in float32, or a single one that is rounded already; and a bias that is yet to be added."""

    sums: Float[Array, "S *B O"]
    bias: Float[Array, " O"] | None = None

    def whole(self, dtype: jax.typing.DTypeLike) -> Float[Array, "*B O"]:
        """The map's result, rounded where `Linear` rounds: the product, and the sum with the bias."""
        y = jnp.sum(self.sums, axis=0).astype(dtype)
        return y if self.bias is None else y + self.bias.astype(dtype).reshape((1,) * (y.ndim - 1) + self.bias.shape)
