"""Weights as rollouts want them: in the compute dtype, sharded by the table `ROLLOUT` (design.md section 4.4)."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import Sharding

from lam_jax.parallel import ROLLOUT, mesh_of, shardings
from lam_jax.parallel.rules import with_holes

T = TypeVar("T")


def rollout_weights(tree: T, specs: T, dtype: Any) -> T:
    """Casts and re-places weights for rollouts; weights that are so already are returned as they are.

    Decoding under the training table would gather every weight for every token. Numbers do not change: whoever
    reads a weight casts it to the compute dtype anyway.

    Args:
        tree: an agent, an action space or a part of one (with None holes), on any mesh.
        specs: the whole thing's `Weight` specs.
        dtype: compute dtype.
    """
    leaves, structure = jax.tree.flatten(tree)
    mesh = mesh_of(leaves)
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
    return structure.unflatten(leaves)


@functools.cache
def _mover(places: tuple[Sharding, ...], dtype: Any) -> Callable[[list[jax.Array]], list[jax.Array]]:
    return jax.jit(lambda leaves: [leaf.astype(dtype) for leaf in leaves], out_shardings=list(places))
