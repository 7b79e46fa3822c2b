"""Folding a function over the layers of a stack of equal modules."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax

from lam_jax.nn.layout import layout

# A stack of equal modules or arrays: one tree whose leaves have a leading layers dimension, or a tuple of a tree each.
Layers = Any
# What the backward pass recomputes: nothing, all but a layer's input, or all but its products with weights.
Remat = bool | Literal["products"]


def require_remat(name: str, value: Any) -> None:
    """Raises ValueError where `value` of the setting `name` is no `Remat`."""
    if not isinstance(value, bool) and value != "products":
        raise ValueError(f"{name} is {value!r}, expected False, True or 'products'.")


def fold_layers(
    step: Callable[..., tuple[Any, Any]],
    carry: Any,
    layers: Layers,
    *inputs: Layers,
    remat: Remat = False,
    frozen: bool = False,
) -> tuple[Any, Any]:
    """`carry, out[i] = step(carry, layers[i], *inputs[i])` for each layer, the outputs stacked.

    Args:
        step: one layer.
        carry: what goes from layer to layer.
        layers: weights, stacked on a leading dimension, or a tuple.
        inputs: further arrays alike.
        remat: recompute each layer's activations in the backward pass; "products": all but those of its products with
            weights, which take most of the time.
        frozen: there is no backward pass, so nothing is gained by unrolling.

    Returns:
        The last carry, and the outputs stacked, or as trees of tuples where `layers` is a tuple.
    """
    unroll = isinstance(layers, tuple) or (not frozen and is_unrolled(layers))

    def body(carry, xs):
        return step(carry, *xs)

    # Inside a loop the compiler cannot merge the recomputation with the first pass; unrolled it could.
    body = checkpointed(body, remat, prevent_cse=unroll)
    if not isinstance(layers, tuple):
        return jax.lax.scan(body, carry, (layers, *inputs), unroll=unroll)
    outputs = []
    for xs in zip(layers, *inputs, strict=True):
        carry, out = body(carry, xs)
        outputs.append(out)
    return carry, jax.tree.map(lambda *parts: parts, *outputs)


def checkpointed(function: Callable[..., Any], remat: Remat, prevent_cse: bool = True) -> Callable[..., Any]:
    """The function with its activations recomputed in the backward pass as `remat` says."""
    if not remat:
        return function
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "products" else None
    return jax.checkpoint(function, prevent_cse=prevent_cse, policy=policy)


def split_layers(stacked: Any) -> tuple[Any, ...]:
    """A stack as a tuple of its layers.

    In decoding, which reads every weight for a few rows only, a layer's slice of the stack would be copied each step.
    """
    count = jax.tree.leaves(stacked)[0].shape[0]
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count))


def split_last(stacked: Layers) -> tuple[Layers, Any]:
    """All layers but the last, and the last.

    The gradient of a split is a concatenation, from which the compiler drops what is not asked for; that of indexing
    would be a sum of padded arrays, for which it would compute gradients of frozen layers too.
    """
    if isinstance(stacked, tuple):
        return stacked[:-1], stacked[-1]
    leaves, tree = jax.tree.flatten(stacked)
    pairs = [jax.lax.split(leaf, (leaf.shape[0] - 1, 1)) for leaf in leaves]
    lower, last = zip(*pairs, strict=True)
    return tree.unflatten(lower), tree.unflatten([leaf[0] for leaf in last])


def depth(layers: Layers) -> int:
    """How many layers there are."""
    return len(layers) if isinstance(layers, tuple) else jax.tree.leaves(layers)[0].shape[0]


def is_unrolled(stacked: Layers) -> bool:
    """Whether layers are unrolled where gradients are wanted: those that are apart, and small stacks."""
    return isinstance(stacked, tuple) or _weights(stacked) < layout().unrolled


def is_apart(stacked: Layers) -> bool:
    """Whether layers are apart in decoding: those that are already, and stacks that the layout takes apart."""
    apart = layout().apart
    return isinstance(stacked, tuple) or _weights(stacked) < (layout().unrolled if apart is None else apart)


def _weights(stacked: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(stacked))
