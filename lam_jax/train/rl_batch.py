"""A rewarded rollout on its way into the update: put together, refilled, divided, shortened.

Legend: N prompts, G samples of a prompt, T completion length, L a shorter one.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int

from lam_jax.models.inputs import Batch, Images
from lam_jax.nn.leaf import Leaf
from lam_jax.parallel import UPDATE, place
from lam_jax.parallel.exchange import take_rows
from lam_jax.parallel.multihost import to_host
from lam_jax.rollout.engine import Rollout


class RLBatch(struct.PyTreeNode):
    """A rewarded rollout, ready for the update."""

    prompts: Batch
    rollout: Rollout
    advantages: Float32[Array, "N G"] | Leaf
    mask: Bool[Array, "N G T"] | Leaf  # tokens that count


def with_advantages(prompts: Batch, rollout: Rollout, advantages: Any, active: Any, mesh: Mesh | None) -> RLBatch:
    """A rollout with advantages and active [N, G] of its prompts; further prompts, which fill up the mesh, get none."""
    if filling := len(prompts.tokens) - len(advantages):
        advantages, active = (jnp.pad(x, ((0, filling), (0, 0))) for x in (advantages, active))
    advantages, active = place((advantages, active), mesh, UPDATE, "prompts", "samples")
    return RLBatch(prompts, rollout, advantages, rollout.mask & active[..., None])


@functools.partial(jax.jit, static_argnames="mesh")
def replace_rows(batch: RLBatch, more: RLBatch, source: Int[Array, " N"], mesh: Mesh | None) -> RLBatch:
    """The batch with row `source[i]` of `more` as row i, where source is not -1."""

    def choose(old, fresh):
        return jnp.where((source >= 0).reshape(-1, *(1,) * (old.ndim - 1)), fresh, old)

    return jax.tree.map(choose, batch, take_rows(more, source, mesh))


def of_one_shape(one: RLBatch, other: RLBatch, mesh: Mesh | None) -> tuple[RLBatch, RLBatch]:
    """Both with prompts as long as the longer ones of the two, and with room for pictures if either has some."""
    length = max(batch.prompts.tokens.shape[1] for batch in (one, other))
    images = next((batch.prompts.images for batch in (one, other) if batch.prompts.images is not None), None)
    return lengthened(with_room(one, images, mesh), length), lengthened(with_room(other, images, mesh), length)


def lengthened(batch: RLBatch, length: int) -> RLBatch:
    """The batch with its prompts filled up with padding on the left, to `length` tokens."""
    return batch if length == batch.prompts.tokens.shape[1] else _lengthened(batch, length=length)


def with_room(batch: RLBatch, images: Images | None, mesh: Mesh | None) -> RLBatch:
    """The batch, with an empty place for pictures of the shape of `images` where it has none."""
    if images is None or batch.prompts.images is not None:
        return batch
    none = jax.tree.map(lambda x: np.full(x.shape, -1, x.dtype), images)
    none = none.replace(patches=np.zeros_like(none.patches))
    return batch.replace(prompts=batch.prompts.replace(images=place(none, mesh, UPDATE)))


def mini_batch(batch: RLBatch, index: int, count: int, prompts: int, mesh: Mesh | None) -> RLBatch:
    """Share `index` of `count` equal ones of the first `prompts` rows; after the last the first comes again."""
    if count == 1:
        return batch
    size = prompts // count
    return take_rows(batch, jnp.arange(size) + index % count * size, mesh)


def in_bucket(batch: RLBatch, lengths: Sequence[int]) -> RLBatch:
    """The batch cut to the smallest of the increasing `lengths` that holds its completions."""
    if len(lengths) == 1:
        return shortened(batch, lengths[0])
    needed = longest(batch)
    return shortened(batch, next(length for length in lengths if length >= needed))


def longest(batch: RLBatch) -> int:
    """The last position of a completion token that counts, from 1 on; 0 if none counts."""
    return int(to_host(_last(batch.mask)))


@functools.partial(jax.jit, static_argnames="length")
def _lengthened(batch: RLBatch, length: int) -> RLBatch:
    prompts, hidden = batch.prompts, batch.rollout.prompt_hidden
    missing = length - prompts.tokens.shape[1]

    def left(x: Array, value: Any = 0) -> Array:
        return jnp.pad(x, ((0, 0), (missing, 0), *((0, 0),) * (x.ndim - 2)), constant_values=value)

    # Padding is what the mask says it is: its tokens are embedded and reach no other place.
    rows = {name: left(getattr(prompts, name)) for name in ("tokens", "mask", "valid", "response")}
    positions = jnp.pad(prompts.positions, ((0, 0), (0, 0), (missing, 0)), constant_values=1)
    return batch.replace(
        prompts=prompts.replace(**rows, positions=positions),
        rollout=batch.rollout.replace(prompt_hidden=left(hidden)),
    )


@jax.jit
def _last(mask: Array) -> Array:
    used = jnp.any(mask, axis=(0, 1))
    return jnp.max(jnp.where(used, jnp.arange(1, used.shape[0] + 1), 0))


def shortened(batch: RLBatch, length: int) -> RLBatch:
    """The first `length` positions of every completion."""
    return batch if length == batch.mask.shape[-1] else _shortened(batch, length=length)


@functools.partial(jax.jit, static_argnames="length")
def _shortened(batch: RLBatch, length: int) -> RLBatch:
    whole = batch.rollout
    rest = whole.replace(prompt_hidden=None)
    cut, mask = jax.tree.map(lambda x: x[:, :, :length], (rest, batch.mask))
    return batch.replace(rollout=cut.replace(prompt_hidden=whole.prompt_hidden), mask=mask)
