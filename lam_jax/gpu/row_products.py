"""The Pallas kernel for a product of few rows with a large weight, bound by reading the weight.

A program streams its block of the weight through shared memory, several steps ahead of the tensor cores; the rows come
from the L2 cache. Legend: R rows, D in, O out, S splits of D.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lam_jax.gpu.cost import cost
from lam_jax.gpu.early import after_letting_dependents_start
from lam_jax.gpu.tiles import Tiles, block_of_rows


def row_products(
    x: Float[Array, "R D"], kernel: Float[Array, "D O"], *, tiles: Tiles, interpret: bool = False
) -> Float[Array, "S R O"]:
    """`x @ kernel` in float32, as the sums of S parts of D.

    Args:
        x: the rows, in the kernel's dtype.
        kernel: of a linear map.
        tiles: how it is cut.
        interpret: on any device, slowly.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    (rows, inputs), outputs = x.shape, kernel.shape[1]
    height, steps = block_of_rows(rows), pl.cdiv(inputs, tiles.depth)
    out = jax.ShapeDtypeStruct((tiles.splits, rows, outputs), jnp.float32)

    def program(x_ref: Any, weight: Any, result: Any) -> None:
        column, split, row = pl.program_id(0) * tiles.columns, pl.program_id(1), pl.program_id(2) * height
        if tiles.early and not interpret:
            split = after_letting_dependents_start(split)

        def step(index: Array, total: Array) -> Array:
            at = index * tiles.depth
            few = _load(x_ref, (row, at), (height, tiles.depth))
            many = _load(weight, (at, column), (tiles.depth, tiles.columns))
            return total + _product(few, many, tiles.swapped)

        zeros = jnp.zeros((tiles.columns, height) if tiles.swapped else (height, tiles.columns), jnp.float32)
        if steps % tiles.splits == 0:  # a loop of known length
            length = steps // tiles.splits
            total = jax.lax.fori_loop(0, length, lambda i, total: step(split * length + i, total), zeros)
        else:
            first, last = ((split + i) * steps // tiles.splits for i in (0, 1))
            total = jax.lax.fori_loop(first, last, step, zeros)
        _store(result, (row, column), total.T if tiles.swapped else total, split)

    return pl.pallas_call(
        program,
        out_shape=out,
        grid=(pl.cdiv(outputs, tiles.columns), tiles.splits, pl.cdiv(rows, height)),
        compiler_params=triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name="row_products",
        cost_estimate=cost(2 * rows * inputs * outputs, 0, (x, kernel, out)),
    )(x, kernel)


def _product(few: Array, many: Array, swapped: bool) -> Array:
    """The rows times a block of a kernel, or its transpose."""
    # float32 is asked for where the last bits count.
    precision = jax.lax.Precision.HIGHEST if few.dtype == jnp.float32 else None
    pair, axes = ((many, few), (0, 1)) if swapped else ((few, many), (1, 0))
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(*pair, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _inside(
    ref: Any, start: tuple[Array, Array], size: tuple[int, int], lead: tuple[Array, ...] = ()
) -> tuple[Any, Array | None]:
    """A block of the array at `lead`, and which of its entries exist; None: all."""
    from jax.experimental import pallas as pl

    block = ref.at[*lead, pl.ds(start[0], size[0]), pl.ds(start[1], size[1])]
    mask = None
    for axis in (0, 1):
        if ref.shape[-2 + axis] % size[axis]:
            number = start[axis] + jax.lax.broadcasted_iota(jnp.int32, size, axis)
            inside = number < ref.shape[-2 + axis]
            mask = inside if mask is None else mask & inside
    return block, mask


def _load(ref: Any, start: tuple[Array, Array], size: tuple[int, int]) -> Array:
    from jax.experimental.pallas import triton

    block, mask = _inside(ref, start, size)
    other = None if mask is None else 0.0
    return triton.load(block, mask=mask, other=other)


def _store(ref: Any, start: tuple[Array, Array], value: Array, *lead: Array) -> None:
    from jax.experimental.pallas import triton

    block, mask = _inside(ref, start, (value.shape[0], value.shape[1]), lead)
    triton.store(block, value, mask=mask)
