"""The residual sum of a decode step and the norm that follows, in one kernel. Legend: R rows, D width, S parts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lam_jax.gpu.cost import cost
from lam_jax.gpu.early import after_letting_dependents_start
from lam_jax.gpu.parts import Parts

WARPS = 8  # of a row's program: at D = 2048 eight numbers a thread


@dataclasses.dataclass(frozen=True)
class _Sizes:
    rows: int
    width: int
    parts: int
    bias: bool

    @property
    def padded(self) -> int:
        return 1 << (self.width - 1).bit_length()


def add_norm(
    x: Float[Array, "R D"],
    parts: Parts,
    scale: Float[Array, " D"],
    *,
    epsilon: float,
    early: bool = False,
    interpret: bool = False,
) -> tuple[Float[Array, "R D"], Float[Array, "R D"]]:
    """`y = x + parts` and `RMSNorm(y)`, rounded where the plain path rounds: the product, the sum, the norm, its scale.

    Args:
        x: the residual.
        parts: sums [S, R, D].
        scale: of the norm.
        epsilon: of the norm.
        early: the next kernel on the stream may be started at once.
        interpret: on any device, slowly.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    rows, width = x.shape
    sizes = _Sizes(rows, width, parts.sums.shape[0], parts.bias is not None)
    vectors = [scale.astype(x.dtype)] + ([] if parts.bias is None else [parts.bias.astype(x.dtype)])
    out = [jax.ShapeDtypeStruct((rows * width,), x.dtype)] * 2
    y, h = pl.pallas_call(
        functools.partial(_kernel, sizes, epsilon, early and not interpret),
        grid=(rows,),
        out_shape=out,
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="add_norm",
        cost_estimate=cost(0, rows, (x, parts.sums, vectors, out)),
    )(x.reshape(-1), parts.sums.reshape(-1), *vectors)
    return y.reshape(x.shape), h.reshape(x.shape)


def _kernel(sizes: _Sizes, epsilon: float, early: bool, x: Any, sums: Any, scale: Any, *refs: Any) -> None:
    """One row; flat arrays."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    bias, (y, h) = refs[:-2], refs[-2:]
    row = pl.program_id(0)
    if early:
        row = after_letting_dependents_start(row)
    column = jnp.arange(sizes.padded, dtype=jnp.int32)
    inside = None if sizes.padded == sizes.width else column < sizes.width
    dtype = x.dtype

    def load(ref: Any, at: Array) -> Array:
        return triton.load(ref.at[at], mask=inside, other=None if inside is None else 0.0).astype(jnp.float32)

    def rounded(value: Array) -> Array:
        return value.astype(dtype).astype(jnp.float32)

    place = row * sizes.width + column
    total = jnp.zeros(sizes.padded, jnp.float32)
    for part in range(sizes.parts):
        total += load(sums, part * sizes.rows * sizes.width + place)
    total = rounded(total)
    for ref in bias:
        total = rounded(total + load(ref, column))
    total = rounded(load(x, place) + total)
    normed = rounded(total * jax.lax.rsqrt(jnp.sum(total * total) / sizes.width + epsilon))
    triton.store(y.at[place], total.astype(dtype), mask=inside)
    triton.store(h.at[place], (load(scale, column) * normed).astype(dtype), mask=inside)
