"""Freezing: a tree of weights split into a trainable and a frozen tree with None holes.

Gradients and optimiser state exist for the trainable tree only. Layers are stacked on a leading axis, so that "the last
8 of 36 blocks" is a slice of each array: `Last(8)` puts those rows in the trainable tree and the others in the frozen
one, and `merge` joins them again.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from lam_jax.nn.weight import path_name, path_names

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Last:
    """Selects the last `rows` entries of a stacked array's leading axis."""

    rows: int

    def __post_init__(self):
        if self.rows < 1:
            raise ValueError(f"Last(rows={self.rows}): expected at least one row.")


Choice = bool | Last
# By path prefix (the longest that matches decides, anything else is frozen), or a function of path and leaf.
Where = Mapping[str, Choice] | Callable[[str, Any], Choice]


def _longest_prefix(prefixes: Mapping[str, Choice], name: str) -> str | None:
    matches = [prefix for prefix in prefixes if name == prefix or name.startswith(prefix + ".")]
    return max(matches, key=len, default=None)


def _chooser(tree: Any, where: Where) -> Callable[[str, Any], Choice]:
    if not isinstance(where, Mapping):
        return where
    names = path_names(tree)
    for prefix in where:
        if not any(name == prefix or name.startswith(prefix + ".") for name in names):
            raise ValueError(
                f"Trainable part {prefix!r} names no weight. Weights are named like {names[:3]}; "
                "a part is such a name or the beginning of one up to a dot."
            )

    def choose(name: str, leaf: Any) -> Choice:
        prefix = _longest_prefix(where, name)
        return False if prefix is None else where[prefix]

    return choose


def _rows(name: str, leaf: Any, choice: Last) -> tuple[Any, Any]:
    """(trainable, frozen) rows of a stacked leaf."""
    count = leaf.shape[0] if leaf.ndim else 0
    if choice.rows > count:
        raise ValueError(f"{name}: found {count} stacked rows in shape {leaf.shape}, asked to train {choice.rows}.")
    if choice.rows == count:
        return leaf, None
    if isinstance(leaf, jax.ShapeDtypeStruct):
        rest = leaf.shape[1:]
        return leaf.update(shape=(choice.rows, *rest)), leaf.update(shape=(count - choice.rows, *rest))
    return leaf[-choice.rows :], leaf[: -choice.rows]


def partition(params: T, where: Where) -> tuple[T, T]:
    """Splits `params` into (trainable, frozen), two trees of the same type with None in the other's places.

    Args:
        params: arrays, or `jax.ShapeDtypeStruct`s.
        where: what trains; see `Where`. A leaf for which it gives `Last(n)` is split along its leading axis.

    Raises:
        ValueError: a prefix that names no weight, `Last` with more rows than there are, or nothing left to train.
    """
    choose = _chooser(params, where)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    trainable, frozen = [], []
    for path, leaf in leaves:
        name = path_name(path)
        choice = choose(name, leaf)
        if isinstance(choice, Last):
            own, other = _rows(name, leaf, choice)
        else:
            own, other = (leaf, None) if choice else (None, leaf)
        trainable.append(own)
        frozen.append(other)
    if all(leaf is None for leaf in trainable):
        raise ValueError(f"Nothing to train: none of {len(leaves)} weights was selected.")
    return structure.unflatten(trainable), structure.unflatten(frozen)


def merge(trainable: T, frozen: T) -> T:
    """The inverse of `partition`; under `jit` and `grad` a pure function of both trees.

    A part that is in one of the halves alone may have another form there: layers apart in the place of a stack.
    """

    def is_empty(part):
        return not jax.tree.leaves(part)

    def join(own, other):
        # A place may be empty in both: optional weights (a bias, an untied head) are None in the model itself.
        if is_empty(own) or is_empty(other):
            return other if is_empty(own) else own
        # Trained rows are the last ones; the frozen half may rest in the compute dtype.
        if isinstance(own, jax.ShapeDtypeStruct):
            return own.update(shape=(other.shape[0] + own.shape[0], *own.shape[1:]))
        return jnp.concatenate([other.astype(own.dtype), own])

    return jax.tree.map(join, trainable, frozen, is_leaf=lambda part: isinstance(part, tuple) or is_empty(part))


# Their gradients are sums over many look-ups and chunks of logits, which bfloat16 would round away.
VOCABULARY_TABLES = ("backbone.embedding", "backbone.lm_head")


def in_dtype(tree: T, dtype: Any, but: Sequence[str] = ()) -> T:
    """Float weights (or shape structs) in `dtype`: the frozen half at rest, the trained half inside a step.

    A step that casts whole weights before it uses them gathers and stacks them in the compute dtype; gradients still
    reach the float32 masters. A trained table of the vocabulary stays in float32 until it is used: `but` names weights
    to leave alone.
    """

    def cast(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or path_name(path) in but:
            return leaf
        return leaf.update(dtype=dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, tree)


def count_parameters(tree: Any) -> int:
    """Number of scalars in the arrays (or shape structs) of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
