"""Which rows of a batch a process holds, and global batches from them.

A process makes only the rows that its devices hold: all rows where a mesh axis that does not shard the batch goes over
the processes, else its own share.
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from lam_jax.parallel.rules import Rules, partition_spec

T = TypeVar("T")


def own_rows(mesh: Mesh, rules: Rules, size: int, axis: str = "batch") -> tuple[int, ...]:
    """The rows of a global batch of `size` rows that this process's devices hold, in order.

    Raises:
        ValueError: the rows do not divide over the mesh.
    """
    sharding = NamedSharding(mesh, partition_spec((axis,), (size,), mesh, rules))
    rows: set[int] = set()
    for index in sharding.addressable_devices_indices_map((size,)).values():
        rows |= set(range(*index[0].indices(size))) if index else set(range(size))
    return tuple(sorted(rows))


def from_own_rows(tree: T, rows: tuple[int, ...], size: int, mesh: Mesh, rules: Rules, axis: str = "batch") -> T:
    """Global arrays of `size` rows on the mesh, of host arrays that hold the rows `rows` in that order.

    Args:
        tree: arrays [rows, ...] of this process.
        rows: from `own_rows`.
        size: rows of the global batch.
        mesh, rules, axis: where the leading dimension goes.
    """
    place = np.full(size, -1)
    place[list(rows)] = np.arange(len(rows))

    def build(local: Any) -> jax.Array:
        shape = (size, *local.shape[1:])
        sharding = NamedSharding(mesh, partition_spec((axis, *(None,) * (local.ndim - 1)), shape, mesh, rules))

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            return local[place[index[0]]][:, *index[1:]]

        return jax.make_array_from_callback(shape, sharding, shard)  # pyright: ignore[reportArgumentType]

    return jax.tree.map(build, tree)
