"""The inputs of the training programs as shapes, dtypes and shardings: nothing is materialised.

Legend: B rows, L length, N prompts, G samples of a prompt, P prompt length, T completion length, D width.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

from lam_jax.aot.workload import Workload
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import family_of
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.positions import image_layout
from lam_jax.nn.weight import Weight, map_specs
from lam_jax.parallel import Rules
from lam_jax.parallel.rules import partition_spec, weight_spec
from lam_jax.train.optimiser import Optimiser, replicated_beside
from lam_jax.train.state import TrainState

T = TypeVar("T")


def abstract_array(shape: tuple[int, ...], dtype: Any, axes: tuple[str | None, ...], mesh: Mesh, rules: Rules) -> Any:
    """An array that is not there, placed by logical axes (missing ones: not sharded)."""
    axes = axes + (None,) * (len(shape) - len(axes))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, partition_spec(axes, shape, mesh, rules)))


def abstract_weights(specs: T, mesh: Mesh, rules: Rules, dtype: Any = None) -> T:
    """Weights in the place of their specs.

    Args:
        specs: tree of `Weight`s.
        mesh: devices.
        rules: TRAIN or ROLLOUT.
        dtype: of all weights; default: that of the specs (float32 master weights).
    """

    def array(weight: Weight) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, weight_spec(weight, mesh, rules))
        return jax.ShapeDtypeStruct(weight.shape, weight.dtype if dtype is None else dtype, sharding=sharding)

    return map_specs(array, specs)


def abstract_state(trainable: T, optimiser: Optimiser) -> TrainState:
    """The `TrainState` that `TrainState.create` would make of abstract weights."""
    scalar = replicated_beside(trainable)
    return TrainState(
        trainable=trainable,
        optimiser_state=optimiser.abstract(trainable),
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=scalar),
        key=abstract_key(scalar),
    )


def abstract_key(sharding: Sharding) -> jax.ShapeDtypeStruct:
    """A random key."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct((), key.dtype, sharding=sharding)


def abstract_batch(
    config: BackboneConfig, work: Workload, rows: int, length: int, mesh: Mesh, rules: Rules, images: bool = True
) -> Batch:
    """A collated batch [B=rows, L=length] as `place` puts it, with one image a row or none."""

    def array(dtype: Any, *rest: int) -> Any:
        return abstract_array((rows, *rest), dtype, ("batch",), mesh, rules)

    pictures = None
    if images:
        height, width = work.image or family_of(config).size
        side = config.vision.patch
        layout = image_layout([[(1, height // side, width // side)]], config.vision)
        parts = {name: array(part.dtype, *part.shape[1:]) for name, part in layout.items()}
        patches = array(np.float32, parts["image_id"].shape[1], config.vision.patch_size)
        pictures = Images(patches, **parts)
    return Batch(
        tokens=array(np.int32, length),
        mask=array(np.bool_, length),
        valid=array(np.bool_, length),
        response=array(np.bool_, length),
        positions=array(np.int32, 3, length),
        has_image=array(np.bool_),
        images=pictures,
    )


def bytes_per_chip(tree: Any) -> int:
    """Memory of abstract (or real) arrays on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        itemsize = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.dtype(leaf.dtype).itemsize
        total += int(np.prod(shape)) * itemsize
    return total
