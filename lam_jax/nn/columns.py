"""Linear maps laid out for a few rows, as in a decode step: the kernel in blocks of columns, each transposed.

A step of decoding reads every weight once, so its speed is that of the reads. XLA's CPU backend multiplies a kernel
[O, D] by a few columns as it reads it; a kernel [D, O] on the right it repacks first. Such a product runs on one core,
but independent ones side by side: so there is a block for each core. Other backends need none of this.
Legend: D in, O out, S columns of a block.
"""

import os
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lam_jax.nn.axes import is_sharded
from lam_jax.nn.layers import Linear, last

T = TypeVar("T")
LEAST = 128  # columns of a block; smaller products cost more to start than they save


class BlockLinear(struct.PyTreeNode):
    """`Linear` with a kernel in blocks of columns, transposed [S, D]."""

    blocks: tuple[Any, ...]
    bias: Any = None

    @classmethod
    def create(cls, linear: Linear) -> "BlockLinear":
        """The same map."""
        return cls(row_blocks(linear.kernel.T), linear.bias)

    @property
    def inputs(self) -> int:
        """D."""
        return self.blocks[0].shape[1]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        y = block_product(x, self.blocks)
        return y if self.bias is None else y + last(self.bias, y)


def row_blocks(kernel: Float[Array, "O D"]) -> tuple[Array, ...]:
    """A transposed kernel cut into blocks of rows."""
    return tuple(jnp.array_split(kernel, _count(kernel.shape[0]), axis=0))


def _count(outputs: int) -> int:
    return max(1, min(os.cpu_count() or 1, outputs // LEAST))


def block_product(x: Float[Array, "... D"], blocks: tuple[Array, ...]) -> Float[Array, "... O"]:
    """`x @ kernel.T` for a transposed kernel in blocks."""
    columns = x.reshape(-1, x.shape[-1]).T
    y = jnp.concatenate([block.astype(x.dtype) @ columns for block in blocks], axis=0)
    return y.T.reshape(*x.shape[:-1], -1)


def is_worth_blocks(outputs: int) -> bool:
    """Whether blocks pay: on one CPU device, where there is more than one block."""
    return jax.default_backend() == "cpu" and not is_sharded() and _count(outputs) > 1


def in_blocks(module: T) -> T:
    """A module with all its linear maps in blocks where that pays."""

    def convert(part: Any) -> Any:
        worth = isinstance(part, Linear) and is_worth_blocks(part.kernel.shape[-1])
        return BlockLinear.create(part) if worth else part

    return jax.tree.map(convert, module, is_leaf=lambda part: isinstance(part, Linear))
