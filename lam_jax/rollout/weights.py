"""Weights as rollouts want them: in the compute dtype, sharded by the table `ROLLOUT` (design.md section 4.4)."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, Sharding

from lam_jax.parallel import ROLLOUT, mesh_of, shardings
from lam_jax.parallel.rules import with_holes

T = TypeVar("T")


def rollout_weights(tree: T, specs: T, dtype: Any, on: Mesh | None = None) -> T:
    """Casts and re-places weights for rollouts; weights that are so already are returned as they are.

    Decoding under the training table would gather every weight for every token. Numbers do not change: whoever
    reads a weight casts it to the compute dtype anyway.

    Args:
        tree: an agent, an action space or a part of one (with None holes), on any mesh.
        specs: the whole thing's `Weight` specs.
        dtype: compute dtype.
        on: the mesh of rollouts, of the devices that the tree lies on, in their order; default: the tree's own.
    """
    leaves, structure = jax.tree.flatten(tree)
    mesh = on or mesh_of(leaves)
    if mesh is None:
        places: list[Any] = [leaf.sharding for leaf in leaves]
    else:
        places = jax.tree.leaves(with_holes(shardings(specs, mesh, ROLLOUT), tree))
    moved = [
        i
        for i, (x, place) in enumerate(zip(leaves, places, strict=True))
        if x.dtype != dtype or not x.sharding.is_equivalent_to(place, x.ndim)
    ]
    if moved:
        new = _mover(tuple(places[i] for i in moved), dtype)([leaves[i] for i in moved])
        for i, x in zip(moved, new, strict=True):
            leaves[i] = x
    if mesh is not None:
        leaves = [_named(x, place) for x, place in zip(leaves, places, strict=True)]
    return structure.unflatten(leaves)


def _named(x: jax.Array, place: NamedSharding) -> jax.Array:
    """The same memory under the name of another mesh, where nothing has to move; `mesh_of` goes by the name."""
    if not isinstance(x.sharding, NamedSharding) or x.sharding.mesh == place.mesh:
        return x
    shards = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, place, shards)


@functools.cache
def _mover(places: tuple[Sharding, ...], dtype: Any) -> Callable[[list[jax.Array]], list[jax.Array]]:
    return jax.jit(lambda leaves: [leaf.astype(dtype) for leaf in leaves], out_shardings=list(places))
