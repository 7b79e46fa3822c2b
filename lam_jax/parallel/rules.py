"""Rules tables: logical axis name -> mesh axes. One table for training, one for rollouts (DESIGN.md, Sharding)."""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lam_jax.nn.weight import Weight, map_specs

T = TypeVar("T")
Rules = Mapping[str, tuple[str, ...]]

# Axes that may be replicated when their size does not divide the mesh axes: few kv heads are shared by many shards.
REPLICABLE = frozenset({"kv_heads"})

_COMMON: dict[str, tuple[str, ...]] = {
    "layers": (),
    "length": (),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "codes": (),
}
# Training shards weights over fsdp; decoding must not, or every token gathers every weight.
TRAIN: Rules = {**_COMMON, "batch": ("data", "fsdp"), "prompts": ("data",), "samples": ("fsdp",), "embed": ("fsdp",)}
ROLLOUT: Rules = {**_COMMON, "batch": ("data",), "prompts": ("data",), "samples": ("fsdp",), "embed": ()}

_active: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar("placement", default=None)


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Makes `constrain` act, for functions traced inside."""
    token = _active.set((mesh, rules))
    try:
        yield
    finally:
        _active.reset(token)


def partition_spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> PartitionSpec:
    """The PartitionSpec of an array with logical `axes`.

    In the form in which jit returns shardings: a step whose inputs are placed in another form of the same sharding
    would compile again when it gets its own outputs.

    Raises:
        ValueError: unknown axis, mesh axis used twice, or a size that does not divide its mesh axes.
    """
    parts: list[tuple[str, ...] | None] = []
    taken: set[str] = set()
    for name, size in zip(axes, shape, strict=True):
        if name is not None and name not in rules:
            raise ValueError(f"Logical axis {name!r} of {axes} is not in the rules table (known: {sorted(rules)}).")
        mesh_axes = tuple(a for a in (rules[name] if name else ()) if mesh.shape[a] > 1)
        shards = math.prod(mesh.shape[a] for a in mesh_axes)
        if shards > 1 and size % shards:
            if name not in REPLICABLE:
                raise ValueError(
                    f"Axis {name!r} of size {size} does not divide over mesh axes {mesh_axes} = {shards} shards. "
                    f"Choose a mesh whose {' x '.join(mesh_axes)} divides {size}."
                )
            mesh_axes = ()
        if taken & set(mesh_axes):
            raise ValueError(f"Axes {axes} would use mesh axes {sorted(taken & set(mesh_axes))} twice.")
        taken |= set(mesh_axes)
        parts.append(mesh_axes or None)
    return canonical_spec(parts)


def canonical_spec(parts: Sequence[tuple[str, ...] | None]) -> PartitionSpec:
    """The PartitionSpec of mesh axes for each dimension: no one-element tuples, no trailing None."""
    names = [part[0] if part and len(part) == 1 else part or None for part in parts]
    while names and names[-1] is None:
        names.pop()
    return PartitionSpec(*names)


def shardings(specs: T, mesh: Mesh, rules: Rules) -> T:
    """A NamedSharding in the place of every `Weight` spec."""

    def sharding(weight: Weight) -> NamedSharding:
        return NamedSharding(mesh, partition_spec(weight.axes, weight.shape, mesh, rules))

    return map_specs(sharding, specs)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins the sharding of an activation by logical axes; the identity outside `use`."""
    active = _active.get()
    if active is None:
        return x
    mesh, rules = active
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition_spec(axes, x.shape, mesh, rules)))


def place(tree: Any, mesh: Mesh, rules: Rules, axis: str = "batch") -> Any:
    """Puts host arrays on the mesh, their leading dimension on logical `axis`."""

    def put(x):
        spec = partition_spec((axis, *(None,) * (x.ndim - 1)), x.shape, mesh, rules)
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree)
