"""Linear maps of a few rows on a GPU, as in a decode step, which reads every weight once.

XLA's own products are the reference, and what other devices compute. Legend: R rows, D in, O out, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lam_jax.gpu.row_products import row_products
from lam_jax.gpu.tiles import MOST_ROWS, Tiles, choose_tiles
from lam_jax.nn.layers import GatedMLP, Head, Linear, Map, swiglu
from lam_jax.nn.weight import Param

Product = Callable[..., Array]
Kernel = Float[Array, "D O"] | Float[Array, "C D W"]  # as it is, or in panels: `lam_jax.gpu.panels`
LEAST = 2**20  # weights; smaller kernels take less time to read than to start


def tiles_for(x: Float[Array, "R D"], kernel: Kernel, kernels: int = 1, choose: Callable[..., Tiles] | None = None):
    """What `choose`, by default `choose_tiles`, gives for these sizes; panels leave it no choice of columns."""
    columns = kernel.shape[2] if kernel.ndim == 3 else None
    inputs = x.shape[1]
    sizes = (x.shape[0], inputs, kernel.size // inputs, x.dtype.itemsize, kernels)
    return (choose or choose_tiles)(*sizes, columns=columns)


def row_parts(
    x: Float[Array, "R D"], kernel: Kernel, *, tiles: Tiles, interpret: bool = False
) -> Float[Array, "S R O"]:
    """`x @ kernel` in float32, as the sums of S parts of D."""
    (parts,) = row_products(x, (kernel,), tiles, interpret=interpret)
    return parts


def row_linear(
    x: Float[Array, "R D"],
    kernel: Kernel,
    bias: Float[Array, " O"] | None = None,
    *,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> Float[Array, "R O"]:
    """`x @ kernel (+ bias)` in the dtype of x, summed in float32 and rounded once."""
    tiles = tiles or tiles_for(x, kernel)
    parts = row_parts(x, kernel, tiles=tiles, interpret=interpret)
    return _finished(jnp.sum(parts, axis=0), bias).astype(x.dtype)


def linear_by_xla(
    x: Float[Array, "R D"], kernel: Float[Array, "D O"], bias: Float[Array, " O"] | None = None
) -> Float[Array, "R O"]:
    """`row_linear` as XLA computes it."""
    return _finished(jnp.matmul(x, kernel, preferred_element_type=jnp.float32), bias).astype(x.dtype)


def _finished(y: Float[Array, "R O"], bias: Float[Array, " O"] | None) -> Float[Array, "R O"]:
    return y if bias is None else y + bias.astype(y.dtype)[None]


def gated(
    x: Float[Array, "R D"],
    gate: Kernel,
    up: Kernel,
    *,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> Float[Array, "R O"]:
    """`silu(x @ gate) * (x @ up)`, the products rounded to the dtype of x as `GatedMLP` does."""
    tiles = tiles or tiles_for(x, gate, kernels=2)

    def finish(*products: Array) -> Array:
        # In float32, of rounded products: what XLA's fusion of `swiglu` computes on a GPU.
        gate, up = (product.astype(x.dtype).astype(jnp.float32) for product in products)
        return gate * jax.nn.sigmoid(gate) * up

    if tiles.splits == 1:
        (y,) = row_products(x, (gate, up), tiles, finish=finish, interpret=interpret)
        return y
    parts = row_products(x, (gate, up), tiles, interpret=interpret)
    return finish(*(jnp.sum(part, axis=0) for part in parts)).astype(x.dtype)


def gated_by_xla(x: Float[Array, "R D"], gate: Float[Array, "D O"], up: Float[Array, "D O"]) -> Float[Array, "R O"]:
    """`gated` as XLA computes it."""
    return swiglu(x @ gate, x @ up)


def row_logits(
    x: Float[Array, "R D"],
    table: Float[Array, "V D"],
    *,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> Float[Array, "R V"]:
    """`x @ table.T` in float32, the table read as it lies."""
    outputs, inputs = table.shape
    tiles = tiles or choose_tiles(x.shape[0], inputs, outputs, x.dtype.itemsize)
    (parts,) = row_products(x, (table,), tiles, along_inputs=True, interpret=interpret)
    return jnp.sum(parts, axis=0)


def logits_by_xla(x: Float[Array, "R D"], table: Float[Array, "V D"]) -> Float[Array, "R V"]:
    """`row_logits` as XLA computes it."""
    return jnp.einsum("rd,vd->rv", x, table, preferred_element_type=jnp.float32)


def on_gpu(
    kernel: Product, by_xla: Product, x: Float[Array, "... D"], *weights: Array | None, interpret: bool
) -> Array:
    """By the kernel where there are few rows and a GPU, or where it is to be interpreted."""
    rows = x.reshape(-1, x.shape[-1])
    weights = tuple(None if weight is None else weight.astype(x.dtype) for weight in weights)
    if rows.shape[0] > MOST_ROWS:
        y = by_xla(rows, *weights)
    elif interpret:
        y = kernel(rows, *weights, interpret=True)
    else:
        y = jax.lax.platform_dependent(rows, *weights, cuda=kernel, default=by_xla)
    return y.reshape(*x.shape[:-1], -1)


class RowLinear(struct.PyTreeNode):
    """`Linear` by `row_linear`."""

    kernel: Param  # [D, O]
    bias: Param = None
    interpret: bool = struct.field(pytree_node=False, default=False)

    @property
    def inputs(self) -> int:
        """D."""
        return self.kernel.shape[-2]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        return on_gpu(row_linear, linear_by_xla, x, self.kernel, self.bias, interpret=self.interpret)


class RowGatedMLP(struct.PyTreeNode):
    """`GatedMLP` whose first two maps are one kernel."""

    gate: Param  # [D, F]
    up: Param  # [D, F]
    down: Map
    interpret: bool = struct.field(pytree_node=False, default=False)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """The MLP of the last dimension; same width out."""
        return self.down(self.hidden(x))

    def hidden(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """What `down` is applied to."""
        return on_gpu(gated, gated_by_xla, x, self.gate, self.up, interpret=self.interpret)


class RowHead(struct.PyTreeNode):
    """`Head` by `row_logits`."""

    table: Param  # [V, D]
    interpret: bool = struct.field(pytree_node=False, default=False)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """float32 logits."""
        return on_gpu(row_logits, logits_by_xla, x, self.table, interpret=self.interpret)


def pack(
    module: Linear | GatedMLP | Head, interpret: bool = False, least: int = LEAST
) -> RowLinear | RowGatedMLP | RowHead | None:
    """What computes the same from the same arrays by the kernels; None where that does not pay.

    Args:
        module: to be packed, see `lam_jax.nn.layers.packed`.
        interpret: the kernels are interpreted, so that they run on any device, slowly.
        least: of weights in a map; smaller ones stay.
    """
    if isinstance(module, Head):
        return RowHead(module.table, interpret) if module.table.size >= least else None
    if isinstance(module, Linear):
        return RowLinear(module.kernel, module.bias, interpret) if module.kernel.size >= least else None
    gate, up = module.gate, module.up
    if gate.kernel.size < least or gate.bias is not None or up.bias is not None:
        return None
    return RowGatedMLP(gate.kernel, up.kernel, pack(module.down, interpret, least) or module.down, interpret)
