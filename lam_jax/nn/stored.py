"""Linear maps whose kernel is held in fewer bits than it is computed in, for decode steps: reading it is their time.

Weight-only: activations keep their dtype, and products are summed up in float32.
Legend: D in, O out, *Y any leading dimensions (a stack's layers).
"""

from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int8

from lam_jax.nn.layers import Linear, last
from lam_jax.nn.layout import layout
from lam_jax.nn.weight import Param

T = TypeVar("T")
# How kernels are held: in the dtype that they have, in bfloat16, or in int8 with a float32 scale for each output.
Storage = Literal["same", "bfloat16", "int8"]
LEVELS = 127  # of either sign: symmetric, so that -128 is not used
BYTES = {"bfloat16": 2, "int8": 1}  # of a weight; scales are one in D


def require_storage(name: str, value: Any) -> None:
    """Raises ValueError where `value` of the setting `name` is no `Storage`."""
    if value not in get_args(Storage):
        raise ValueError(f"{name} is {value!r}, expected one of {get_args(Storage)}.")


class StoredLinear(Linear):
    """`Linear` with a kernel of bfloat16, or of int8 that each output's `scale` belongs to."""

    scale: Param = None  # float32 [O]; None: the kernel as it is

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        return self.wide(x).astype(x.dtype)

    def wide(self, x: Float[Array, "... D"]) -> Float32[Array, "... O"]:
        """The same, in float32."""
        rows = x.reshape(-1, x.shape[-1]) if layout().joined else x
        # Whole numbers up to 127 are exact in bfloat16 too.
        y = jnp.matmul(rows, self.kernel.astype(x.dtype), preferred_element_type=jnp.float32)
        return scaled(y.reshape(*x.shape[:-1], -1), self.scale, self.bias)


def scaled(y: Float32[Array, "... O"], scale: Param, bias: Param) -> Float32[Array, "... O"]:
    """What is left to do after the product with levels; either may be None."""
    y = y if scale is None else y * last(scale, y)
    return y if bias is None else y + last(bias, y)


def quantise(kernel: Float[Array, "*Y D O"]) -> tuple[Int8[Array, "*Y D O"], Float32[Array, "*Y O"]]:
    """int8 levels and the scale of each output: `levels * scale` is off by half a scale at most.

    An output with a weight that is no finite number has a scale that is none: what is computed with it shows it.
    """
    wide = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=-2)
    scale = jnp.where(largest == 0, 1.0, largest / LEVELS)
    levels = jnp.clip(jnp.round(wide / scale[..., None, :]), -LEVELS, LEVELS)
    return levels.astype(jnp.int8), scale


def stored(linear: Linear, storage: Storage) -> Linear:
    """The map with its kernel held so; itself where it is already."""
    if storage == "int8":
        kernel, scale = quantise(linear.kernel)
        return StoredLinear(kernel, linear.bias, scale)
    if storage == "bfloat16" and linear.kernel.dtype != jnp.bfloat16:
        return StoredLinear(linear.kernel.astype(jnp.bfloat16), linear.bias)
    return linear


def with_stored(module: T, storage: Storage) -> T:
    """A module, or a stack of them, with all its linear maps held so; norms and biases stay."""
    if storage == "same":
        return module

    def convert(part: Any) -> Any:
        return stored(part, storage) if isinstance(part, Linear) else part

    return jax.tree.map(convert, module, is_leaf=lambda part: isinstance(part, Linear))
