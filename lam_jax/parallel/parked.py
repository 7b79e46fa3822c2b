"""Arrays that wait on the host while a phase computes with a smaller copy of them, or with others."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


class _Parked:
    """One array's shards on this process's host."""

    def __init__(self, array: jax.Array, copy: bool):
        self.shape, self.sharding = array.shape, array.sharding
        make = np.array if copy else np.asarray  # of a CPU's array the latter is a view
        self.shards = [(shard.device, make(shard.data)) for shard in array.addressable_shards]

    def restore(self) -> jax.Array:
        parts = [jax.device_put(data, device) for device, data in self.shards]
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, parts)


class Parking(Generic[T]):
    """A tree of arrays some of which wait on the host.

    Args:
        tree: all of them on the devices.
    """

    def __init__(self, tree: T):
        self._leaves, self._structure = jax.tree.flatten(tree)
        self._index = {id(leaf): i for i, leaf in enumerate(self._leaves)}
        self._kept: dict[int, _Parked] = {}

    def park(self, array: jax.Array) -> None:
        """Moves one of them to the host and **deletes** it on the devices: nothing else may use it afterwards."""
        self._kept[self._index[id(array)]] = _Parked(array, copy=False)
        array.delete()

    def wake(self) -> T:
        """The tree as it was, all on the devices."""
        return self._structure.unflatten(
            [self._kept[i].restore() if i in self._kept else x for i, x in enumerate(self._leaves)]
        )


class OnHost(Generic[T]):
    """A copy of a tree of arrays on the host, each process's part of it on its own."""

    def __init__(self, tree: T):
        self._leaves, self._structure = jax.tree.flatten(tree)
        self._leaves = [_Parked(leaf, copy=True) for leaf in self._leaves]

    def restore(self) -> T:
        """New arrays where those of the tree lay."""
        return self._structure.unflatten([leaf.restore() for leaf in self._leaves])


def rest(tree: T, dtype: Any) -> tuple[T, Callable[[], T]]:
    """A tree's float weights in `dtype` for the time of a phase, and a function that gives the tree back as it was.

    Weights of another dtype move to the host, shard by shard, and are **deleted** on the devices: nothing else may use
    `tree` afterwards. Weights that have the dtype already stay as they are.
    """
    parking = Parking(tree)
    return in_dtype_one_by_one(tree, dtype, parking.park), parking.wake


def in_dtype_one_by_one(tree: T, dtype: Any, release: Callable[[jax.Array], None]) -> T:
    """A tree's float weights in `dtype`; `release` is given every array that another has taken the place of."""

    def cast(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == dtype:
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(dtype=dtype)
        found = jax.block_until_ready(leaf.astype(dtype))
        release(leaf)
        return found

    return jax.tree.map(cast, tree)


def discard(tree: Any, but: Any = ()) -> None:
    """Deletes the arrays of a tree that are none of those of `but`: their devices' memory is free at once."""
    kept = set(map(id, jax.tree.leaves(but)))
    for leaf in jax.tree.leaves(tree):
        if id(leaf) not in kept:
            leaf.delete()


def is_used_up(tree: Any, dtype: Any) -> bool:
    """Whether a phase that computes in `dtype` may take the memory of a tree's weights: it has another one.

    Otherwise it computes with the very arrays, which somebody else may have too.
    """
    return all(leaf.dtype != dtype for leaf in jax.tree.leaves(tree))


def park(tree: T, dtype: Any) -> Callable[[], T]:
    """A function that gives a tree back as it is now, as often as it is called.

    Weights of another dtype than `dtype` wait on the host, deleted on the devices; the others stay where they are.
    """
    parking = Parking(tree)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != dtype:
            parking.park(leaf)
    return parking.wake
