"""A rewarded rollout on its way into the update: put together, refilled, divided, shortened.

Legend: N prompts, G samples of a prompt, T completion length, L a shorter one.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int

from lam_jax.models.inputs import Batch
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


def mini_batch(batch: RLBatch, index: int, count: int, prompts: int, mesh: Mesh | None) -> RLBatch:
    """Share `index` of `count` equal ones of the first `prompts` prompts; after the last the first comes again."""
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
