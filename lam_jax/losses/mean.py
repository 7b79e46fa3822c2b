"""A mean kept as total and count, so that parts of a batch (micro-batches, shards) combine to one global mean."""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float


class Mean(struct.PyTreeNode):
    """`total / count`, 0 where nothing was counted."""

    total: Any  # float32 [], loosely typed: host arrays and shape structs pass through too
    count: Any  # float32 []

    @property
    def value(self) -> Float[Array, ""]:
        """The mean."""
        return self.total / jnp.maximum(self.count, 1.0)

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)


def masked_mean(values: Float[Array, "*B"], mask: Bool[Array, "*B"]) -> Mean:
    """Mean of `values` where `mask`; masked values may be anything, NaN included."""
    return Mean(jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask, dtype=jnp.float32))
