"""One declaration per weight, from which initialisation, shardings, loading, export and counting all derive.

A module is a frozen `flax.struct.PyTreeNode` whose weight fields hold, at different times, `Weight` specs, arrays,
shape structs or shardings. That is why fields are annotated with the loose `Param`.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Param = Any
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Weight:
    """Declares a weight.

    Attributes:
        shape: the array's shape.
        axes: one logical axis name (or None: never sharded) per dimension; rules tables map names to mesh axes.
        init: "normal" (mean 0, standard deviation `scale`), "zeros" or "ones".
        dtype: of the master copy.
        scale: standard deviation of "normal".
        units: per dimension the number of parts that a sharding must not cut, e.g. attention heads; None: its size.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str = "normal"
    dtype: Any = jnp.float32
    scale: float = 0.02
    units: tuple[int | None, ...] | None = None

    def __post_init__(self):
        if len(self.shape) != len(self.axes):
            raise ValueError(f"Weight of shape {self.shape} needs {len(self.shape)} axis names, got {self.axes}.")
        if self.units is not None and len(self.shape) != len(self.units):
            raise ValueError(f"Weight of shape {self.shape} needs {len(self.shape)} units, got {self.units}.")
        if self.init not in ("normal", "zeros", "ones"):
            raise ValueError(f"Unknown initialiser {self.init!r}: expected 'normal', 'zeros' or 'ones'.")

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype, for tracing without memory."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype)


def is_weight(leaf: Any) -> bool:
    """Whether `leaf` is a spec (to be used as `is_leaf`)."""
    return isinstance(leaf, Weight)


def map_specs(function: Callable[[Weight], Any], specs: T) -> T:
    """Applies `function` to every spec of a module tree."""
    return jax.tree.map(function, specs, is_leaf=is_weight)


def stack(specs: T, count: int, axis: str = "layers") -> T:
    """Specs of `count` equal modules stacked on a new leading dimension named `axis`, to be folded by `lax.scan`."""

    def stacked(weight: Weight) -> Weight:
        units = None if weight.units is None else (None, *weight.units)
        return dataclasses.replace(weight, shape=(count, *weight.shape), axes=(axis, *weight.axes), units=units)

    return map_specs(stacked, specs)


def unstacked(specs: T) -> T:
    """Specs of one of the modules that `stack` stacked."""

    def one(weight: Weight) -> Weight:
        units = None if weight.units is None else weight.units[1:]
        return dataclasses.replace(weight, shape=weight.shape[1:], axes=weight.axes[1:], units=units)

    return map_specs(one, specs)


def materialize(specs: T, key: jax.Array) -> T:
    """Arrays for all specs. Call it under `jax.jit` with out_shardings, so that no device holds a full copy.

    A weight's random key depends on its path in the tree only: adding a module elsewhere changes no other weight.
    """

    def create(path, weight: Weight):
        if weight.init == "zeros":
            return jnp.zeros(weight.shape, weight.dtype)
        if weight.init == "ones":
            return jnp.ones(weight.shape, weight.dtype)
        own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        return weight.scale * jax.random.normal(own, weight.shape, weight.dtype)

    return jax.tree_util.tree_map_with_path(create, specs, is_leaf=is_weight)


def structs(specs: T) -> T:
    """`jax.ShapeDtypeStruct`s in the place of specs."""
    return map_specs(lambda w: w.struct, specs)


def count(specs: Any) -> int:
    """Number of parameters."""
    return sum(math.prod(w.shape) for w in jax.tree.leaves(specs, is_leaf=is_weight))


def path_name(path: tuple[Any, ...]) -> str:
    """The dotted name of a leaf, e.g. "backbone.text.blocks.attention.q.kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def path_names(tree: Any) -> list[str]:
    """Names of all leaves, in the order of `jax.tree.leaves`."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
