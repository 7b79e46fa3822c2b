"""Linear maps laid out for a few rows, as in a decode step: the kernel in blocks of columns, arrays of their own.

XLA's CPU backend computes the product of a few rows with a kernel on one core, but independent products side by side.
A step of decoding reads every weight once, so its speed is that of the reads: one core does not reach the memory's
(8 rows, 24 kernels [512, 1408], 2 cores: 15 GB/s of kernel as one product each, 36 GB/s as two). Other backends share
out a product by themselves.
Legend: D in, O out, S columns of a block, R rows.
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
    """`Linear` with a kernel of blocks of columns [D, S]."""

    blocks: tuple[Any, ...]
    bias: Any = None

    @classmethod
    def create(cls, linear: Linear) -> "BlockLinear":
        """The same map."""
        return cls(column_blocks(linear.kernel), linear.bias)

    @property
    def inputs(self) -> int:
        """D."""
        return self.blocks[0].shape[0]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        y = block_product(x, self.blocks)
        return y if self.bias is None else y + last(self.bias, y)


def column_blocks(kernel: Float[Array, "D O"]) -> tuple[Array, ...]:
    """A kernel cut into blocks of columns."""
    return tuple(jnp.array_split(kernel, _count(kernel.shape[1]), axis=1))


def _count(columns: int) -> int:
    return max(1, min(os.cpu_count() or 1, columns // LEAST))


def block_product(x: Float[Array, "... D"], blocks: tuple[Array, ...]) -> Float[Array, "... O"]:
    """`x @ kernel` for a kernel in blocks."""
    rows = x.reshape(-1, x.shape[-1])
    y = jnp.concatenate([rows @ block.astype(x.dtype) for block in blocks], axis=1)
    return y.reshape(*x.shape[:-1], -1)


def is_worth_blocks(columns: int) -> bool:
    """Whether blocks pay: on one CPU device, where there is more than one."""
    return jax.default_backend() == "cpu" and not is_sharded() and _count(columns) > 1


def in_blocks(module: T) -> T:
    """A module with all its linear maps in blocks of columns where that pays."""

    def convert(part: Any) -> Any:
        worth = isinstance(part, Linear) and is_worth_blocks(part.kernel.shape[-1])
        return BlockLinear.create(part) if worth else part

    return jax.tree.map(convert, module, is_leaf=lambda part: isinstance(part, Linear))
