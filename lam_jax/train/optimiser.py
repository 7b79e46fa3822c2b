"""AdamW with warm-up, a schedule and torch's gradient clipping (method.md section 3)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, Float, Int

# What torch.nn.utils.clip_grad_norm_ adds to the norm that it divides by; optax adds nothing.
TORCH_CLIP_EPSILON = 1e-6

# Learning rate as a function of the optimiser step, counted from 0.
Schedule = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Settings of AdamW and of its learning rate.

    Attributes:
        lr: peak learning rate.
        schedule: shape after warm-up: constant, or from `lr` down to `final_fraction * lr` at the last step.
        warmup_fraction: share of the steps (rounded up) in which the rate rises linearly from 0.
        final_fraction: rate at the end, as a share of `lr`; a constant schedule does not use it.
        clip_norm: largest global norm of the gradients.
        b1, b2, eps, weight_decay: AdamW's.
    """

    lr: float
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_fraction: float = 0.0
    final_fraction: float = 0.0
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self):
        if self.schedule not in ("constant", "linear", "cosine"):
            raise ValueError(f"schedule: found {self.schedule!r}, expected 'constant', 'linear' or 'cosine'.")
        for name in ("lr", "clip_norm", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected a number above 0.")
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected a share between 0 and 1.")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected 0 <= {name} < 1.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: found {self.weight_decay}, expected a number that is not negative.")


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """A gradient transformation and the learning rate it applies at each step (counted from 0)."""

    transform: optax.GradientTransformation
    learning_rate: Schedule

    def init(self, trainable: Any) -> Any:
        """Optimiser state for fp32 master weights, placed on devices like the weights.

        Raises:
            TypeError: a weight that is not float32.
        """
        for path, leaf in jax.tree_util.tree_leaves_with_path(trainable):
            if leaf.dtype != jnp.float32:
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                raise TypeError(f"{name}: found master weight of {leaf.dtype}, expected float32. Cast in the forward.")
        with jax.numpy_dtype_promotion("standard"):
            struct = jax.eval_shape(self.transform.init, trainable)
            return jax.jit(self.transform.init, out_shardings=self._shardings(struct, trainable))(trainable)

    def abstract(self, trainable: Any) -> Any:
        """What `init` would make of abstract weights (shape structs with shardings): shape structs with shardings."""
        with jax.numpy_dtype_promotion("standard"):
            struct = jax.eval_shape(self.transform.init, trainable)
        placed = self._shardings(struct, trainable)
        return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), struct, placed)

    def update(self, gradients: Any, state: Any, trainable: Any) -> tuple[Any, Any, Any]:
        """Applies one step. Returns (new weights, new state, what was added to the weights)."""
        with jax.numpy_dtype_promotion("standard"):
            updates, state = self.transform.update(gradients, state, trainable)
            return optax.apply_updates(trainable, updates), state, updates

    def updates_done(self, state: Any) -> Any:
        """int32 scalar: updates of a state, on which the learning rate depends; None: it counts none."""
        scheduled = optax.ScaleByScheduleState
        found = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, scheduled))
        return next((node.count for node in found if isinstance(node, scheduled)), None)

    def _shardings(self, struct: Any, trainable: Any) -> Any:
        # jit alone would not keep the weights' shardings for the moments.
        scalar = replicated_beside(trainable)
        return optax.tree.map_params(
            self.transform,
            lambda _, leaf: getattr(leaf, "sharding", scalar),
            struct,
            trainable,
            transform_non_params=lambda _: scalar,
        )


def replicated_beside(trainable: Any) -> Sharding:
    """Where a scalar that goes with these weights (or shape structs) lies: on every device of their mesh."""
    first = next((leaf.sharding for leaf in jax.tree.leaves(trainable) if hasattr(leaf, "sharding")), None)
    if isinstance(first, NamedSharding):
        return NamedSharding(first.mesh, PartitionSpec())
    return first or SingleDeviceSharding(jax.devices()[0])


def global_norm(tree: Any) -> Float[Array, ""]:
    """Euclidean norm over all elements of all arrays, in fp32."""
    return optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients by min(1, max_norm / (norm + 1e-6)), as torch's clip_grad_norm_ does.

    `optax.clip_by_global_norm` lacks the 1e-6, and its result differs by 1e-6 of the norm.
    """

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, max_norm / (global_norm(updates) + TORCH_CLIP_EPSILON))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_schedule(config: OptimiserConfig, steps: int) -> Schedule:
    """Learning rate of step t = 0 .. steps - 1: transformers' get_{constant,linear,cosine}_schedule_with_warmup.

    With w warm-up steps: lr * t / w while t < w; after that, with p = (t - w) / (steps - w) and f the final share,
    linear is lr * (f + (1 - f) (1 - p)), cosine is lr * (f + (1 - f) (1 + cos(pi p)) / 2). At t = steps, one past the
    last step, it reaches f * lr and stays there.
    """
    if steps < 1:
        raise ValueError(f"steps: found {steps}, expected at least 1.")
    warmup = math.ceil(config.warmup_fraction * steps)

    # Not optax's join_schedules, linear_schedule and cosine_decay_schedule: the same curves, rounded otherwise (another
    # last float32 digit at 168 of the 700 steps of the demo's stages), and no nearer to transformers' float64.
    def learning_rate(step: Int[Array, ""]) -> Float[Array, ""]:
        t = step.astype(jnp.float32)
        rising = t / max(1, warmup)
        progress = jnp.clip((t - warmup) / max(1, steps - warmup), 0.0, 1.0)
        falling = {
            "constant": jnp.ones_like(progress),
            "linear": config.final_fraction + (1 - config.final_fraction) * (1 - progress),
            "cosine": config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + jnp.cos(jnp.pi * progress)),
        }[config.schedule]
        return config.lr * jnp.where(t < warmup, rising, falling)

    return learning_rate


def make_optimiser(config: OptimiserConfig, steps: int) -> Optimiser:
    """Clip, AdamW, schedule over `steps` optimiser steps."""
    learning_rate = make_schedule(config, steps)
    transform = optax.chain(
        clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay) if config.weight_decay else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )
    return Optimiser(transform, learning_rate)
