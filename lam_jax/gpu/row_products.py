"""The Pallas kernel of `row_linear`: few rows times large weights, bound by reading the weights.

A program streams its block of the weights through shared memory, several steps ahead of the tensor cores; the rows come
from the L2 cache. Legend: R rows, D in, O out, S splits of D.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lam_jax.gpu.early import after_letting_dependents_start
from lam_jax.gpu.tiles import Tiles, block_of_rows

Finish = Callable[..., Array]


def row_products(
    x: Float[Array, "R D"],
    kernels: Sequence[Float[Array, "..."]],
    tiles: Tiles,
    *,
    finish: Finish | None = None,
    along_inputs: bool = False,
    interpret: bool = False,
) -> tuple[Array, ...]:
    """`x @ kernel` for each kernel, read once and side by side.

    Args:
        x: the rows, in the kernels' dtype.
        kernels: [D, O], or in panels [O / W, D, W] of W=`tiles.columns`; all of the same shape.
        tiles: how they are cut.
        finish: what makes the result of the products in float32, elementwise; only without splits.
        along_inputs: kernels are [O, D] instead.
        interpret: on any device, slowly.

    Returns:
        `finish(*products)` in the dtype of x [R, O], alone; without `finish` the float32 partial sums of every product
        [S, R, O].

    Raises:
        ValueError: `finish` with splits, or panels of another width than tiles.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    if finish is not None and tiles.splits > 1:
        raise ValueError(f"A product in {tiles.splits} splits cannot be finished by the kernel: expected 1.")
    rows, inputs = x.shape
    panels = kernels[0].ndim == 3
    if panels and kernels[0].shape[2] != tiles.columns:
        raise ValueError(f"Panels have {kernels[0].shape[2]} columns, tiles {tiles.columns}: expected the same.")
    outputs = kernels[0].size // inputs
    height, steps = block_of_rows(rows), pl.cdiv(inputs, tiles.depth)
    if finish is None:
        out = (jax.ShapeDtypeStruct((tiles.splits, rows, outputs), jnp.float32),) * len(kernels)
    else:
        out = (jax.ShapeDtypeStruct((rows, outputs), x.dtype),)

    def program(x_ref: Any, *refs: Any) -> None:
        weights, results = refs[: len(kernels)], refs[len(kernels) :]
        block, split, row = pl.program_id(0), pl.program_id(1), pl.program_id(2) * height
        column = block * tiles.columns
        if tiles.early and not interpret:
            split = after_letting_dependents_start(split)

        def step(index: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            at = index * tiles.depth
            few = _load(x_ref, (row, at), (height, tiles.depth))
            found = []
            for weight, total in zip(weights, sums, strict=True):
                if panels:
                    many = _load(weight, (at, 0), (tiles.depth, tiles.columns), block)
                elif along_inputs:
                    many = _load(weight, (column, at), (tiles.columns, tiles.depth))
                else:
                    many = _load(weight, (at, column), (tiles.depth, tiles.columns))
                found.append(total + _product(few, many, along_inputs, tiles.swapped))
            return tuple(found)

        shape = (tiles.columns, height) if tiles.swapped else (height, tiles.columns)
        zeros = tuple(jnp.zeros(shape, jnp.float32) for _ in weights)
        if steps % tiles.splits == 0:  # a loop of known length
            length = steps // tiles.splits
            sums = jax.lax.fori_loop(0, length, lambda i, sums: step(split * length + i, sums), zeros)
        else:
            first, last = ((split + i) * steps // tiles.splits for i in (0, 1))
            sums = jax.lax.fori_loop(first, last, step, zeros)
        sums = tuple(total.T for total in sums) if tiles.swapped else sums
        if finish is None:
            for result, total in zip(results, sums, strict=True):
                _store(result, (row, column), total, split)
        else:
            _store(results[0], (row, column), finish(*sums).astype(x.dtype))

    return pl.pallas_call(
        program,
        out_shape=out,
        grid=(pl.cdiv(outputs, tiles.columns), tiles.splits, pl.cdiv(rows, height)),
        compiler_params=triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name="row_products",
    )(x, *kernels)


def _product(few: Array, many: Array, along_inputs: bool, swapped: bool) -> Array:
    """The rows times a block of a kernel, or its transpose."""
    inputs = 1 if along_inputs else 0
    # float32 is asked for where the last bits count.
    precision = jax.lax.Precision.HIGHEST if few.dtype == jnp.float32 else None
    pair, axes = ((many, few), (inputs, 1)) if swapped else ((few, many), (1, inputs))
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(*pair, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _inside(
    ref: Any, start: tuple[Array, Array | int], size: tuple[int, int], lead: tuple[Array, ...] = ()
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


def _load(ref: Any, start: tuple[Array, Array | int], size: tuple[int, int], *lead: Array) -> Array:
    from jax.experimental.pallas import triton

    block, mask = _inside(ref, start, size, lead)
    other = None if mask is None else 0.0
    return triton.load(block, mask=mask, other=other)


def _store(ref: Any, start: tuple[Array, Array], value: Array, *lead: Array) -> None:
    from jax.experimental.pallas import triton

    block, mask = _inside(ref, start, (value.shape[0], value.shape[1]), lead)
    triton.store(block, value, mask=mask)
