"""Weights as rollouts want them: in the compute dtype, sharded by the table `ROLLOUT` (design.md section 4.4)."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from lam_jax.nn.block import DecoderBlock
from lam_jax.nn.weight import unstacked
from lam_jax.parallel import ROLLOUT, mesh_of, shardings
from lam_jax.parallel.rules import with_holes

T = TypeVar("T")
Release = Callable[[jax.Array], None]


def rollout_weights(
    tree: T, specs: T, dtype: Any, apart: bool = False, release: Release | None = None, on: Mesh | None = None
) -> T:
    """Casts and re-places weights for rollouts; weights that are so already are returned as they are.

    Decoding under the training table would gather every weight for every token. Numbers do not change: whoever
    reads a weight casts it to the compute dtype anyway.

    Args:
        tree: an agent, an action space or a part of one (with None holes), on any mesh; or shape structs.
        specs: the whole thing's `Weight` specs.
        dtype: compute dtype.
        apart: stacks of decoder blocks become tuples of layers. A rollout that takes them apart itself (`Layout.apart`)
            holds them twice.
        release: is given every array that another has taken the place of; they are moved one at a time then, so that
            little is there twice.
        on: the mesh of rollouts, of the devices that the tree lies on, in their order; default: the tree's own.
    """
    blocks, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, DecoderBlock | tuple))
    leaves = jax.tree.leaves(tree)
    mesh = on or mesh_of(leaves)
    if mesh is None:
        places: list[Any] = [leaf.sharding for leaf in leaves]
    else:
        places = jax.tree.leaves(with_holes(shardings(_apart_like(specs, tree), mesh, ROLLOUT), tree))
    splits = [apart and isinstance(part, DecoderBlock) for part in blocks for _ in jax.tree.leaves(part)]
    moved = [
        i
        for i, (x, place) in enumerate(zip(leaves, places, strict=True))
        if splits[i] or x.dtype != dtype or not (x.sharding is place or x.sharding.is_equivalent_to(place, x.ndim))
    ]
    found: list[Any] = list(leaves)
    for group in [[i] for i in moved] if release else [moved]:
        own, theirs, apart_ones = ([part[i] for i in group] for part in (leaves, places, splits))
        new = _moved(own, theirs, apart_ones, dtype)
        for i, x in zip(group, new, strict=True):
            found[i] = x
            if release:
                jax.block_until_ready(x)
                release(leaves[i])
    if mesh is not None:
        stay = set(range(len(leaves))) - set(moved)
        found = [_named(x, place) if i in stay else x for i, (x, place) in enumerate(zip(found, places, strict=True))]
    return structure.unflatten(_with_leaves(blocks, found, apart))


def _with_leaves(parts: list[Any], leaves: list[Any], apart: bool) -> list[Any]:
    """The parts of a tree with new leaves; a stack whose leaves are lists of layers becomes a tuple."""
    rest, made = iter(leaves), []
    for part in parts:
        own, structure = jax.tree.flatten(part)
        new = [next(rest) for _ in own]
        split = apart and isinstance(part, DecoderBlock) and new
        made.append(tuple(map(structure.unflatten, zip(*new, strict=True))) if split else structure.unflatten(new))
    return made


def _apart_like(specs: T, tree: T) -> T:
    """The specs of a tree whose layers may be apart already."""

    def like(own: Any, spec: Any) -> Any:
        return (unstacked(spec),) * len(own) if isinstance(own, tuple) and not isinstance(spec, tuple) else spec

    return jax.tree.map(like, tree, specs, is_leaf=lambda x: x is None or isinstance(x, tuple))


def _moved(leaves: list[Any], places: list[Any], splits: list[bool], dtype: Any) -> list[Any]:
    """Arrays, or lists of layers of those that are split."""
    places = [_of_a_layer(place) if split else place for place, split in zip(places, splits, strict=True)]
    if leaves and isinstance(leaves[0], jax.ShapeDtypeStruct):
        return [_abstract(*each, dtype) for each in zip(leaves, places, splits, strict=True)]
    return _mover(tuple(places), tuple(splits), dtype)(leaves) if leaves else []


def _of_a_layer(place: Sharding) -> Sharding:
    """Stacks are not sharded along their layers."""
    return NamedSharding(place.mesh, PartitionSpec(*place.spec[1:])) if isinstance(place, NamedSharding) else place


def _abstract(leaf: jax.ShapeDtypeStruct, place: Any, split: bool, dtype: Any) -> Any:
    if not split:
        return leaf.update(dtype=dtype, sharding=place)
    return [leaf.update(shape=leaf.shape[1:], dtype=dtype, sharding=place) for _ in range(leaf.shape[0])]


def _named(x: Any, place: NamedSharding) -> Any:
    """The same memory under the name of another mesh, where nothing has to move; `mesh_of` goes by the name."""
    if not isinstance(x.sharding, NamedSharding) or x.sharding.mesh == place.mesh:
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.update(sharding=place)
    shards = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, place, shards)


@functools.cache
def _mover(
    places: tuple[Sharding, ...], splits: tuple[bool, ...], dtype: Any
) -> Callable[[list[jax.Array]], list[Any]]:
    def move(leaves: list[jax.Array]) -> list[Any]:
        cast = [leaf.astype(dtype) for leaf in leaves]
        return [list(x) if split else x for x, split in zip(cast, splits, strict=True)]

    return jax.jit(move, out_shardings=list(places))
