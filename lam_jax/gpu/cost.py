"""What our kernels tell about their cost, which no compiler sees: `lam_jax.aot` counts by it."""

import math
from collections.abc import Iterable
from typing import Any

import jax


def cost(flops: int, transcendentals: int, arrays: Iterable[Any]) -> Any:
    """A kernel's `cost_estimate`.

    Args:
        flops: of its products alone, two for every multiply-add; rows and columns that only fill up blocks left out.
        transcendentals: exponentials, roots and the like.
        arrays: read or written, each once.
    """
    from jax.experimental import pallas as pl

    moved = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(list(arrays)))
    return pl.CostEstimate(flops=flops, transcendentals=transcendentals, bytes_accessed=moved)
