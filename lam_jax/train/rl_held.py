"""What stage 6 keeps on the devices beside its state: the half that stands still, once where it can, and the reference.

The same functions hold arrays in a run and shape structs in `lam-jax compile`, so that what is counted is what is held.
"""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from lam_jax.latent.agent import Agent
from lam_jax.nn.layout import Layout
from lam_jax.nn.weight import path_name
from lam_jax.parallel import mesh_of
from lam_jax.parallel.parked import in_dtype_one_by_one
from lam_jax.rl import Algorithm
from lam_jax.rollout.weights import Release, rollout_weights
from lam_jax.train.partition import merge
from lam_jax.train.spaces import Space


class Frozen(NamedTuple):
    """The agent without its trainable part, for the two kinds of programs; arrays that lie alike are the same ones."""

    updates: Agent
    rollouts: Agent


def hold_frozen(
    frozen: Agent, space: Space, layout: Layout, release: Release | None = None, on: Mesh | None = None
) -> Frozen:
    """The half that does not train, in the compute dtype.

    Where updates do not run the backbone, they read the copy of rollouts, unless it lies on another mesh. Otherwise
    training's is there as well, as far as it lies otherwise.

    Args:
        frozen: as training left it.
        space: what an action is.
        layout: of the programs.
        release: is given every array as soon as it is needed no more; those that the space does not use are not held
            then, and stacks lie as decode steps want them. None: `frozen` stays where it is, and is shared.
        on: the mesh of rollouts, of the devices that `frozen` lies on, in their order; None: that of `frozen`.
    """
    dtype, specs = frozen.backbone.config.dtype, frozen.specs
    if release is not None:
        frozen = _without(frozen, space.unused, release)
    if space.frozen_backbone and on in (None, mesh_of(frozen)):
        held = rollout_weights(frozen, specs, dtype, layout.kept_apart and release is not None, release)
        return Frozen(held, held)
    updates = frozen if release is None else in_dtype_one_by_one(frozen, dtype, release)
    return Frozen(updates, rollout_weights(updates, specs, dtype, on=on))


def hold_reference(trainable: Agent, algorithm: Algorithm) -> Agent:
    """The part that trains as it was at the start, in the compute dtype; nothing of it where no KL is asked for."""
    if algorithm.beta == 0:
        return jax.tree.map(lambda leaf: None, trainable)
    return in_dtype_one_by_one(trainable, trainable.backbone.config.dtype, lambda leaf: None)


def for_rollouts(trainable: Agent, frozen: Agent) -> Agent:
    """The whole agent as rollouts want it.

    Args:
        trainable: as it trains.
        frozen: `Frozen.rollouts`; what trains lies on its mesh then, apart where this is.
    """
    apart = isinstance(frozen.backbone.blocks, tuple)
    own = rollout_weights(trainable, trainable.specs, trainable.backbone.config.dtype, apart, on=mesh_of(frozen))
    return merge(own, frozen)


def _without(tree: Agent, unused: tuple[str, ...], release: Release) -> Agent:
    def kept(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if not any(name.startswith(f"{part}.") for part in unused):
            return leaf
        release(leaf)
        return None

    return jax.tree_util.tree_map_with_path(kept, tree)
