"""The codes behind given texts: what the inverse model infers and what the policy would choose, at answer positions.

An answer position is one whose next token is of the answer: the code there is what brings that token about.
Legend: B rows, L length, D width, K codes, N positions.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from lam_jax.data.collator import Collated
from lam_jax.data.schemas import Example
from lam_jax.latent.agent import Agent, Reading
from lam_jax.latent.health import CodeSums, row_sums
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.nn.leaf import Leaf
from lam_jax.parallel import TRAIN, place, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.parallel.multihost import to_host
from lam_jax.train.stages.inverse_pass import frozen_states, inverse_logits


class _Read(struct.PyTreeNode):
    keep: Bool[Array, "B L"] | Leaf
    inferred: Int[Array, "B L"] | Leaf
    certainty: Float[Array, "B L"] | Leaf
    chosen: Int[Array, "B L"] | Leaf
    x: Float[Array, "B L D"] | Leaf | None
    inverse: CodeSums
    policy: CodeSums
    blind: Int[Array, "B L"] | Leaf | None  # inferred with the picture withheld and the projector in its place
    gap: Float[Array, "B L"] | Leaf | None  # |mu_P(e^T) - e^VT|^2
    norm: Float[Array, "B L"] | Leaf | None  # |e^VT - its mean|^2, what a constant guess would be off by


@dataclasses.dataclass(frozen=True)
class ReadRow:
    """A row's answer, position by position; arrays of N answer positions.

    Attributes:
        example: the row.
        tokens: of the row, padding left out.
        places: where in `tokens` the emitted token of each position is.
        inferred: the inverse model's code, argmax without noise.
        certainty: its probability.
        chosen: the policy's most likely code.
        blind: the code inferred where the picture is withheld and the projector stands in; None: no picture.
        inverse, policy: sums over the row's positions.
    """

    example: Example
    tokens: Int[np.ndarray, " L"]
    places: Int[np.ndarray, " N"]
    inferred: Int[np.ndarray, " N"]
    certainty: Float[np.ndarray, " N"]
    chosen: Int[np.ndarray, " N"]
    blind: Int[np.ndarray, " N"] | None
    inverse: CodeSums
    policy: CodeSums


@dataclasses.dataclass(frozen=True)
class Reads:
    """Rows that were read.

    Attributes:
        rows: in order; rows without an answer position are left out.
        states: merge inputs of some answer positions [N, D].
        origins: of each state the row's index in `rows` and the index of its position there.
        projector_error: |mu_P(e^T) - e^VT|^2 over |e^VT - mean|^2 at answer positions of rows with pictures: 0 is
            perfect, 1 no better than always the mean; None: no such row.
        cut: rows that were longer than the longest bucket.
    """

    rows: tuple[ReadRow, ...]
    states: Float[np.ndarray, "N D"]
    origins: tuple[tuple[int, int], ...]
    projector_error: float | None
    cut: int


def answer_positions(batch: Batch) -> Bool[Array, "B L"]:
    """Positions whose next token is of the answer."""
    ahead = jnp.concatenate([batch.response[:, 1:], jnp.zeros_like(batch.response[:, :1])], axis=1)
    return ahead & batch.mask


@functools.partial(jax.jit, static_argnames=("reading", "blind", "mesh", "layout"))
def _read(agent: Agent, batch: Batch, reading: Reading, blind: bool, mesh: Mesh | None, layout: Layout) -> _Read:
    with use(mesh, TRAIN, layout):
        keep = answer_positions(batch)
        states = frozen_states(agent, batch)
        x = agent.action_input(states, batch.has_image, reading)
        inverse = inverse_logits(agent, x, batch)
        policy = agent.latent.policy(x, agent.backbone.rotary(batch.positions), batch.mask)
        inferred = jnp.argmax(inverse, axis=-1)
        certainty = jnp.max(jax.nn.softmax(inverse, axis=-1), axis=-1)
        withheld: dict[str, Any] = {"blind": None, "gap": None, "norm": None}
        if blind:
            text = batch.without_images()
            guess = agent.latent.projector.mean(frozen_states(agent, text))
            weight = (keep & batch.has_image[:, None])[..., None].astype(jnp.float32)
            wide = states.astype(jnp.float32)
            mean = jnp.sum(wide * weight, axis=(0, 1)) / jnp.maximum(jnp.sum(weight), 1.0)
            withheld = {
                "blind": jnp.argmax(inverse_logits(agent, guess, text), axis=-1),
                "gap": jnp.sum((guess.astype(jnp.float32) - wide) ** 2, axis=-1),
                "norm": jnp.sum((wide - mean[None, None]) ** 2, axis=-1),
            }
        sums = [row_sums(logits, keep) for logits in (inverse, policy)]
        return _Read(keep, inferred, certainty, jnp.argmax(policy, axis=-1), x, *sums, **withheld)


def read_codes(
    agent: Agent,
    examples: Sequence[Example],
    collate: Callable[[Sequence[Example], int], Collated],
    reading: Reading,
    batch_size: int,
    states: int = 0,
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Reads:
    """Reads whole chats through inverse dynamics and policy.

    Args:
        agent: with latent modules.
        examples: rows with an answer.
        collate: makes batches of whole chats.
        reading: whether text-only rows are projected.
        batch_size: rows of a batch; memory is B L (D + K).
        states: how many merge inputs are kept, spread over rows.
        seed: of the choice of positions.
        progress: wraps the starts of batches.
    """
    rng, static = np.random.default_rng(seed), statics(agent)
    each = -(-states // max(1, len(examples)))
    rows: list[ReadRow] = []
    kept: list[np.ndarray] = []
    origins: list[tuple[int, int]] = []
    gaps, norms, cut = 0.0, 0.0, 0
    for start in progress(range(0, len(examples), batch_size)):
        made = collate(examples[start : start + batch_size], batch_size)
        cut += made.cuts.rows
        blind = bool(np.any(made.batch.has_image))
        read = _read(agent, place(made.batch, static["mesh"], TRAIN), reading, blind, **static)
        host = to_host(read.replace(x=None))
        tokens, mask, has_image = (np.asarray(x) for x in (made.batch.tokens, made.batch.mask, made.batch.has_image))
        for row, example in enumerate(made.examples):
            at = np.flatnonzero(host.keep[row])
            if not len(at):
                continue
            if blind and has_image[row]:
                gaps += float(host.gap[row, at].sum())
                norms += float(host.norm[row, at].sum())
            chosen = np.sort(rng.choice(len(at), min(each, len(at)), replace=False))
            if len(chosen):
                kept.append(np.asarray(to_host(read.x[row, at[chosen]]), np.float32))
                origins += [(len(rows), int(i)) for i in chosen]
            real = np.flatnonzero(mask[row])
            rows.append(
                ReadRow(
                    example,
                    tokens[row, real],
                    np.searchsorted(real, at + 1),
                    host.inferred[row, at],
                    host.certainty[row, at],
                    host.chosen[row, at],
                    host.blind[row, at] if blind and has_image[row] else None,
                    jax.tree.map(lambda x, row=row: np.asarray(x[row], np.float64), host.inverse),
                    jax.tree.map(lambda x, row=row: np.asarray(x[row], np.float64), host.policy),
                )
            )
    width = agent.backbone.config.text.width
    return Reads(
        tuple(rows),
        np.concatenate(kept) if kept else np.zeros((0, width), np.float32),
        tuple(origins),
        gaps / norms if norms else None,
        cut,
    )
