"""A rewarded rollout on its way into the update.

Legend: N prompts, G samples of a prompt, T completion length, L a shorter one.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from lam_jax.models.inputs import Batch
from lam_jax.parallel.multihost import to_host
from lam_jax.rollout.engine import Rollout


class RLBatch(struct.PyTreeNode):
    """A rewarded rollout, ready for the update."""

    prompts: Batch
    rollout: Rollout
    advantages: Any  # float32 [N, G]; loosely typed, shape structs stand here too
    mask: Any  # bool [N, G, T], tokens that count


def longest(taken: RLBatch) -> int:
    """The last position of a completion token that counts, from 1 on; 0 if none counts."""
    return int(to_host(_last(taken.mask)))


@jax.jit
def _last(mask: Array) -> Array:
    used = jnp.any(mask, axis=(0, 1))
    return jnp.max(jnp.where(used, jnp.arange(1, used.shape[0] + 1), 0))


def shortened(taken: RLBatch, length: int) -> RLBatch:
    """The first `length` positions of every completion."""
    return taken if length == taken.mask.shape[-1] else _shortened(taken, length=length)


@functools.partial(jax.jit, static_argnames="length")
def _shortened(taken: RLBatch, length: int) -> RLBatch:
    whole = taken.rollout
    rest = whole.replace(prompt_hidden=None)
    cut, mask = jax.tree.map(lambda x: x[:, :, :length], (rest, taken.mask))
    return taken.replace(rollout=cut.replace(prompt_hidden=whole.prompt_hidden), mask=mask)
