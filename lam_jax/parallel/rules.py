"""Rules tables: logical axis name -> mesh axes (design.md section 4.4).

`TRAIN` serves stages 1 to 5, `ROLLOUT` serves rollouts, and `UPDATE` RL's updates, whose weights lie as in training and
whose samples lie as in rollouts.

A mesh of rollouts may have an axis `wide` besides. It shards what is not attention (feed-forward, vocabulary) as
`tensor` does, and samples as `fsdp` does: a block attends to its own samples, gathers those of the others for its share
of the feed-forward, and keeps the sums of its own. So the feed-forward, seven eighths of a block, lies in more shards
than attention has heads, and caches are divided by samples where there are fewer kv heads than shards.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from lam_jax.nn.axes import ANY, Axes, active, constrain, placed_by
from lam_jax.nn.layout import PLAIN, Layout, laid_out_by
from lam_jax.nn.weight import Weight, map_specs
from lam_jax.parallel.mesh import WIDE
from lam_jax.parallel.replicated import put_replicated

__all__ = [
    "ROLLOUT",
    "TRAIN",
    "UPDATE",
    "Rules",
    "constrain",
    "constrain_weights",
    "mesh_of",
    "place",
    "shardings",
    "use",
]
T = TypeVar("T")
Rules = Mapping[str, tuple[str, ...]]

# Axes that are replicated where they do not divide their mesh axes: few kv heads are shared by many shards, and the
# vision tower's odd sizes (feed-forward 3420 in every released model) are not worth a refusal.
REPLICABLE = frozenset({"kv_heads", "vision_heads", "vision_mlp"})

_COMMON: dict[str, tuple[str, ...]] = {
    "layers": (),
    "length": (),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vision_heads": ("tensor",),
    "vision_mlp": ("tensor",),
    "codes": (),
    "prompts": ("data",),
    "samples": ("fsdp",),
}
# Training shards weights over fsdp; decoding must not, or every token gathers every weight.
TRAIN: Rules = {**_COMMON, "batch": ("data", "fsdp"), "embed": ("fsdp",)}
ROLLOUT: Rules = {
    **_COMMON,
    "batch": ("data",),
    "embed": (),
    "samples": ("fsdp", WIDE),
    "gathered": ("fsdp",),  # samples where the feed-forward or the vocabulary reads them
    "mlp": (WIDE, "tensor"),
    "vocab": (WIDE, "tensor"),
}
UPDATE: Rules = {**TRAIN, "batch": ("data",)}

# What an axis is called where a user sets it, for messages.
_MEANING = {
    "batch": "rows of a batch",
    "prompts": "prompts of a rollout",
    "samples": "samples of a prompt",
    "heads": "attention heads",
    "mlp": "feed-forward size",
    "vocab": "vocabulary",
    "embed": "width",
}


@dataclasses.dataclass(frozen=True)
class _Placed:
    """The `Placement` of `use`."""

    mesh: Mesh
    rules: Rules

    def pin(self, x: jax.Array, axes: Axes) -> jax.Array:
        spec = partition_spec(axes, x.shape, self.mesh, self.rules)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def names(self, axis: str) -> tuple[str, ...]:
        return tuple(name for name in self.rules[axis] if _size(self.mesh, name) > 1)

    def on_shards(
        self,
        function: Callable[..., Any],
        arrays: Sequence[jax.Array],
        inputs: Sequence[Axes],
        outputs: Any,
        gathers: bool = False,
    ) -> Any:
        rules = self.rules if gathers else _beside_wide([axis for axes in inputs for axis in axes], self.rules)

        def spec(axes: Axes) -> PartitionSpec:
            names = (rules[axis] if axis else () for axis in axes)
            return canonical_spec([tuple(name for name in found if _size(self.mesh, name) > 1) for found in names])

        specs = tuple(partition_spec(axes, x.shape, self.mesh, rules) for x, axes in zip(arrays, inputs))
        results = jax.tree.map(spec, outputs, is_leaf=lambda x: isinstance(x, tuple) and not isinstance(x[0], tuple))
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=results, check_vma=not gathers)(
            *arrays
        )


@contextlib.contextmanager
def use(mesh: Mesh | None, rules: Rules, layout: Layout = PLAIN) -> Iterator[None]:
    """Makes `constrain` act on `mesh`, for functions traced inside; without a mesh, or on one device, it does not.

    `layout` is what those functions are laid out by, see `lam_jax.parallel.choose_layout`.
    A trace is cached without regard to this: open it inside the function that is jitted, and let that depend on mesh
    and layout by static arguments.

    Raises:
        ValueError: a layout that joins dimensions, on several devices.
    """
    placement = None if mesh is None or mesh.size == 1 else _Placed(mesh, rules)
    if placement is not None and layout.joined:
        raise ValueError(
            f"{layout} joins dimensions that lie on different axes of a mesh of {placement.mesh.size} devices: use "
            "`choose_layout(mesh)`, or joined=False."
        )
    with placed_by(placement), laid_out_by(layout):
        yield


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that the arrays (or shape structs) of a tree lie on; None if none of them lies on a mesh."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh
    return None


def partition_spec(
    axes: Axes,
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    rules: Rules,
    units: tuple[int | None, ...] | None = None,
) -> PartitionSpec:
    """The PartitionSpec of an array with logical `axes`; `units` as in `Weight`.

    In the form in which jit returns shardings: a step whose inputs are placed in another form of the same sharding
    would compile again when it gets its own outputs.

    Raises:
        ValueError: unknown axis, mesh axis used twice, or a size that does not divide its mesh axes.
    """
    parts: list[Any] = []
    taken: set[str] = set()
    rules = _beside_wide(axes, rules)
    for name, size, parts_of in zip(axes, shape, units or (None,) * len(shape), strict=True):
        if name == ANY:
            parts.append(PartitionSpec.UNCONSTRAINED)
            continue
        if name is not None and name not in rules:
            raise ValueError(f"Logical axis {name!r} of {axes} is not in the rules table (known: {sorted(rules)}).")
        mesh_axes = tuple(a for a in (rules[name] if name else ()) if _size(mesh, a) > 1)
        shards = math.prod(mesh.shape[a] for a in mesh_axes)
        count = parts_of or size
        if name is not None and shards > 1 and count % shards:
            if name not in REPLICABLE:
                raise ValueError(_indivisible(name, count, mesh_axes, shards))
            mesh_axes = ()
        if taken & set(mesh_axes):
            raise ValueError(f"Axes {axes} would use mesh axes {sorted(taken & set(mesh_axes))} twice.")
        taken |= set(mesh_axes)
        parts.append(mesh_axes or None)
    return canonical_spec(parts)


def _beside_wide(axes: Sequence[str | None], rules: Rules) -> Rules:
    """The rules by which samples are gathered where another axis is wide, too."""
    if any(WIDE in rules.get(name or "", ()) for name in axes if name != "samples"):
        return {**rules, "samples": rules["gathered"]}
    return rules


def _size(mesh: Mesh | AbstractMesh, axis: str) -> int:
    """Devices along a mesh axis; of an axis that the mesh does not have one."""
    return mesh.shape.get(axis, 1)


def canonical_spec(parts: Sequence[Any]) -> PartitionSpec:
    """The PartitionSpec of mesh axes for each dimension: no one-element tuples, no trailing None."""
    names = [part[0] if isinstance(part, tuple) and len(part) == 1 else part or None for part in parts]
    while names and names[-1] is None:
        names.pop()
    return PartitionSpec(*names)


def _indivisible(name: str, count: int, mesh_axes: tuple[str, ...], shards: int) -> str:
    product = " x ".join(mesh_axes)
    meaning = f" ({_MEANING[name]})" if name in _MEANING else ""
    message = f"Axis {name!r}{meaning} of size {count} does not divide over mesh axes {mesh_axes} = {shards} shards. "
    divisors = [n for n in range(1, min(count, 4 * shards) + 1) if count % n == 0]
    fix = f"Choose a mesh whose {product} is one of {', '.join(map(str, divisors))}"
    if name in ("batch", "prompts", "samples"):
        fix += f", or {_MEANING[name]} a multiple of {shards}"
    return f"{message}{fix}."


def weight_spec(weight: Weight, mesh: Mesh | AbstractMesh, rules: Rules) -> PartitionSpec:
    """The PartitionSpec of a declared weight; raises as `partition_spec` does."""
    return partition_spec(weight.axes, weight.shape, mesh, rules, weight.units)


def shardings(specs: T, mesh: Mesh, rules: Rules) -> T:
    """A NamedSharding in the place of every `Weight` spec."""
    return map_specs(lambda weight: NamedSharding(mesh, weight_spec(weight, mesh, rules)), specs)


def with_holes(full: T, tree: T) -> T:
    """`full` with None wherever `tree` (a part of the same thing, see `lam_jax.train.partition`) has None."""
    return jax.tree.map(lambda own, other: None if own is None else other, tree, full, is_leaf=lambda x: x is None)


def constrain_weights(tree: T, specs: Any) -> T:
    """Pins weights, or their gradients, to the shardings of their specs; `tree` may have None holes.

    Without it the embedding's gradient, say, is added up in full on every device.
    """

    def pin(x: Any, weight: Any) -> Any:
        return None if x is None else constrain_weight(x, weight)

    return jax.tree.map(pin, tree, specs, is_leaf=lambda x: x is None)


def constrain_weight(x: jax.Array, weight: Weight) -> jax.Array:
    """Pins a weight, or a slice of its layers, to the sharding of its spec; the identity outside `use`."""
    placement = active()
    if not isinstance(placement, _Placed):
        return x
    spec = weight_spec(weight, placement.mesh, placement.rules)
    return jax.lax.with_sharding_constraint(x, NamedSharding(placement.mesh, spec))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays or random keys, which every process holds alike, put on every device of the mesh."""
    return tree if mesh is None else put_replicated(tree, NamedSharding(mesh, PartitionSpec()))


def place(tree: Any, mesh: Mesh | None, rules: Rules, *axes: str) -> Any:
    """Puts arrays on the mesh, their leading dimensions on logical `axes` (default: rows on `batch`).

    Without a mesh they go to the default device.

    With several processes each holds all rows of host arrays; see `lam_jax.parallel.rows` for shares of them.

    Raises:
        ValueError: a leading dimension does not divide.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)

    def put(x):
        names = axes or ("batch",)
        spec = partition_spec((*names, *(None,) * (x.ndim - len(names))), x.shape, mesh, rules)
        return put_replicated(x, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree)
