"""Linear maps laid out for a few rows, as in a decode step: the kernel in tiles of columns, each contiguous in memory.

XLA's CPU product walks down a few columns of the kernel at a time. In a plain [D, O] kernel each row of those lies on
another page, and the walk runs at memory latency; in tiles it reads straight on (8 rows, D = 512, O = 1408, one core:
8.5 GB/s of kernel in plain layout, 16.1 GB/s in tiles). Other backends choose layouts by themselves.
Legend: D in, O out, S columns of a tile, M tiles, R rows.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lam_jax.nn.axes import is_sharded
from lam_jax.nn.layers import Linear, last
from lam_jax.nn.weight import Param

T = TypeVar("T")
COLUMNS = 64  # S; measured best of 32, 64 and 128


class TiledLinear(struct.PyTreeNode):
    """`Linear` with a kernel of tiles [M, D, S]."""

    kernel: Param
    bias: Param = None

    @classmethod
    def create(cls, linear: Linear) -> "TiledLinear":
        """The same map; its outputs have to be whole tiles."""
        return cls(tiles(linear.kernel), linear.bias)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        y = tiled_product(x, self.kernel.astype(x.dtype))
        return y if self.bias is None else y + last(self.bias, y)


def tiles(kernel: Float[Array, "D O"]) -> Float[Array, "M D S"]:
    """A kernel cut into tiles of columns."""
    return jnp.moveaxis(kernel.reshape(kernel.shape[0], -1, COLUMNS), 1, 0)


def tiled_product(x: Float[Array, "... D"], kernel: Float[Array, "M D S"]) -> Float[Array, "... O"]:
    """`x @ kernel` in float32 or the kernel's dtype, for a kernel in tiles."""
    rows = x.reshape(-1, x.shape[-1])
    y = jnp.matmul(jnp.broadcast_to(rows[None], (kernel.shape[0], *rows.shape)), kernel)
    return jnp.moveaxis(y, 0, 1).reshape(*x.shape[:-1], -1)


def is_tileable(outputs: int) -> bool:
    """Whether tiles pay (on one CPU device) and `outputs` columns are whole tiles."""
    return jax.default_backend() == "cpu" and not is_sharded() and outputs % COLUMNS == 0


def tile(module: T) -> T:
    """A module with all its linear maps tiled that can be."""

    def convert(part: Any) -> Any:
        return TiledLinear.create(part) if isinstance(part, Linear) and is_tileable(part.kernel.shape[-1]) else part

    return jax.tree.map(convert, module, is_leaf=lambda part: isinstance(part, Linear))
