"""Rollouts from the host: weights and prompts are put where the table `ROLLOUT` wants them, then the engine runs.

Legend: N prompts, G samples of a prompt, L length, P patches of a row.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from lam_jax.errors import NonFiniteError
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.parallel import ROLLOUT, UPDATE, mesh_of, place, replicate, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.parallel.mesh import WIDE
from lam_jax.parallel.multihost import to_host
from lam_jax.parallel.rules import partition_spec
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import Rollout, RolloutConfig, rollout
from lam_jax.rollout.steering import SteeredActions
from lam_jax.rollout.weights import rollout_weights


def run_rollout(
    space: ActionSpace,
    prompts: Batch,
    sample_ids: Int[Any, "N G"],
    key: Array,
    config: RolloutConfig,
    layout: Layout | None = None,
) -> Rollout:
    """Samples continuations on the mesh that the weights lie on.

    Weights that lie otherwise are re-placed first: whoever rolls out often keeps `prepared(space)`.

    Args:
        space: token or latent actions.
        prompts: on the host or on the mesh.
        sample_ids: likewise.
        key: one for the whole rollout.
        config: how prompts are continued.
        layout: of the program; default: what suits the mesh.

    Raises:
        ValueError: N or G does not divide its mesh axis; `fill_prompts` and `fill_samples` make them fit.
    """
    space = prepared(space)
    static = statics(space, layout)
    mesh = static["mesh"]
    prompts, sample_ids = place(prompts, mesh, ROLLOUT), place(sample_ids, mesh, ROLLOUT, "prompts", "samples")
    return jitted(space, prompts, sample_ids, replicate(key, mesh), config=config, **static)


def require_numbers(out: Rollout, rows: Sequence[str]) -> None:
    """Refuses a rollout with actions that were taken of logits that are no numbers. Every process has to call it.

    Whatever chooses the largest chooses something of such logits too, and answers look whole.

    Args:
        out: as it came.
        rows: names of its first prompts; others fill up the mesh.

    Raises:
        NonFiniteError: the rows, by name.
    """
    spoilt = np.asarray(to_host(_spoilt(out.logps, out.logp_gap, out.mask)))[: len(rows)]
    if spoilt.any():
        named = [row for row, is_spoilt in zip(rows, spoilt) if is_spoilt]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        raise NonFiniteError(
            f"The logits of answers to {', '.join(named[:5])}{more} are NaN, so what was answered means nothing. Check "
            "that the weights are finite; in float16 or bfloat16 they may have overflowed: try float32."
        )


@jax.jit
def _spoilt(logps: Float[Array, "N G T"], gap: Float[Array, "N G T"], mask: Bool[Array, "N G T"]) -> Bool[Array, " N"]:
    """The gap too: a NaN among truncated logits may be cut off, and what is left looks sound."""
    return jnp.any(jnp.isnan(logps + gap) & mask, axis=(1, 2))


def prepared(space: ActionSpace, on: Mesh | None = None) -> ActionSpace:
    """The action space with weights as rollouts want them, on the mesh `on`, see `rollout_weights`."""
    if isinstance(space, SteeredActions):  # what it is steered by are no weights
        return space.replace(space=prepared(space.space, on))
    return rollout_weights(space, space.specs, space.backbone.config.dtype, on=on)


def brought_to(out: Rollout, mesh: Mesh, rows: int) -> Rollout:
    """The first `rows` prompts of a rollout of another mesh of the same devices, where updates on `mesh` want them."""
    leaves, structure = jax.tree.flatten(out)
    samples = jax.tree.map(lambda _: ("prompts", "samples"), out.replace(prompt_hidden=None))
    axes = jax.tree.leaves(samples.replace(prompt_hidden=("prompts",)), is_leaf=lambda x: isinstance(x, tuple))
    shapes = [(rows, *leaf.shape[1:]) for leaf in leaves]
    places = tuple(
        NamedSharding(mesh, partition_spec((*names, *(None,) * (len(shape) - len(names))), shape, mesh, UPDATE))
        for names, shape in zip(axes, shapes, strict=True)
    )
    return structure.unflatten(_bringer(places, rows)(leaves))


@functools.cache
def _bringer(places: tuple[NamedSharding, ...], rows: int) -> Callable[[list[jax.Array]], list[jax.Array]]:
    return jax.jit(lambda leaves: [leaf[:rows] for leaf in leaves], out_shardings=list(places))


@functools.partial(jax.jit, static_argnames=("config", "mesh", "layout"))
def jitted(
    space: ActionSpace,
    prompts: Batch,
    sample_ids: Array,
    key: Array,
    config: RolloutConfig,
    mesh: Mesh | None,
    layout: Layout,
) -> Rollout:
    """The program: everything is in its place already."""
    with use(mesh, ROLLOUT, layout):
        return rollout(space, prompts, sample_ids, key, config)


def fill_samples(samples: int, space: ActionSpace) -> int:
    """The least number of samples, `samples` or more, that divides over the shards that they lie on."""
    mesh = mesh_of(space)
    return samples if mesh is None else samples + -samples % (mesh.shape["fsdp"] * mesh.shape.get(WIDE, 1))


def fill_prompts(prompts: Batch, space: ActionSpace, on: Mesh | None = None) -> Batch:
    """Host prompts filled up with padding rows to a multiple of the shards that prompts lie on.

    Padding rows come last, produce nothing and count nowhere.

    Args:
        prompts: on the host.
        space: what reads them.
        on: the mesh that they are to lie on; default: that of `space`.
    """
    mesh = on or mesh_of(space)
    shards = 1 if mesh is None else mesh.shape["data"]
    missing = -prompts.tokens.shape[0] % shards
    if not missing:
        return prompts

    def filled(x: Any, value: Any) -> np.ndarray:
        x = np.asarray(x)
        return np.concatenate([x, np.full((missing, *x.shape[1:]), value, x.dtype)])

    images = prompts.images
    if images is not None:
        # As `image_layout` pads.
        images = jax.tree.map(lambda x: filled(x, -1 if np.issubdtype(x.dtype, np.integer) else 0), images)
    return Batch(
        tokens=filled(prompts.tokens, space.backbone.config.pad_id),
        mask=filled(prompts.mask, False),
        valid=filled(prompts.valid, False),
        response=filled(prompts.response, False),
        positions=filled(prompts.positions, 1),
        has_image=filled(prompts.has_image, False),
        images=images,
    )
