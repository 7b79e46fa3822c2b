"""Arrays that wait on the host while a phase computes with a smaller copy of them."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


class _Parked:
    """One array's shards on this process's host; its devices' memory is free."""

    def __init__(self, array: jax.Array):
        self.shape, self.sharding = array.shape, array.sharding
        self.shards = [(shard.device, np.asarray(shard.data)) for shard in array.addressable_shards]
        array.delete()

    def restore(self) -> jax.Array:
        parts = [jax.device_put(data, device) for device, data in self.shards]
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, parts)


def rest(tree: T, dtype: Any) -> tuple[T, Callable[[], T]]:
    """A tree's float weights in `dtype` for the time of a phase, and a function that gives the tree back as it was.

    Weights of another dtype move to the host, shard by shard, and are **deleted** on the devices: nothing else may use
    `tree` afterwards. Weights that have the dtype already stay as they are.
    """
    leaves, structure = jax.tree.flatten(tree)
    moved = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype != dtype]
    resting, kept = list(leaves), {}
    for i in moved:
        resting[i] = leaves[i].astype(dtype)
        jax.block_until_ready(resting[i])
        kept[i] = _Parked(leaves[i])

    def wake() -> T:
        return structure.unflatten([kept[i].restore() if i in kept else x for i, x in enumerate(leaves)])

    return structure.unflatten(resting), wake


def park(tree: T, dtype: Any) -> Callable[[], T]:
    """A function that gives a tree back as it is now, as often as it is called.

    Weights of another dtype than `dtype` wait on the host, deleted on the devices; the others stay where they are.
    """
    return rest(tree, dtype)[1]
