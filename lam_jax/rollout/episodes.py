"""Rollouts with an environment in the loop: each turn is a rollout of the conversations so far.

The conversation is prefilled anew each turn, whole. So what a turn's actions were drawn from is recorded with the turn,
as for any prompt, and an update scores a game as its turns, each after its own prompt.

Legend: N prompts, G samples of a prompt, B = N * G games, K most turns of a game, T length of an answer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from lam_jax.data.collator import Collated
from lam_jax.data.cuts import Cuts
from lam_jax.data.schemas import DataError, Example
from lam_jax.environments.environment import Environment
from lam_jax.environments.play import Games
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.parallel import UPDATE, mesh_of, place
from lam_jax.parallel.mesh import WIDE
from lam_jax.parallel.multihost import to_host
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import Rollout, RolloutConfig
from lam_jax.rollout.run import prepared, require_numbers, run_rollout

Collate = Callable[[Sequence[Example], int], Collated]
Decode = Callable[[np.ndarray, np.ndarray], list[list[str]]]  # (tokens [B, 1, T], mask) -> texts [B][1]


@dataclasses.dataclass(frozen=True)
class Turn:
    """One answer of every game.

    Attributes:
        prompts: the conversations, on the mesh.
        rollout: their continuations, [B, 1, T].
        alive: [B] games that went on; the continuations of the others mean nothing.
        sizes: [B] tokens of the conversations, and pictures in them.
    """

    prompts: Batch
    rollout: Rollout
    alive: Bool[np.ndarray, " B"]
    sizes: tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Games that are over.

    Attributes:
        games: with verdicts, answers and turns of each; game n * G + g is sample g of prompt n.
        turns: at least one, at most K.
        cuts: what was cut of conversations that went on.
    """

    games: Games
    turns: tuple[Turn, ...]
    cuts: Cuts


def play(
    space: ActionSpace,
    environment: Environment,
    examples: Sequence[Example],
    samples: int,
    collate: Collate,
    decode: Decode,
    config: RolloutConfig,
    key: jax.Array,
    first: int = 0,
    layout: Layout | None = None,
    rows: int | None = None,
) -> Episodes:
    """Plays G games of each prompt to their ends. Every process has to call it, and each plays all games.

    Args:
        space: action space of the agent.
        environment: what is played.
        examples: [N] rows that begin games.
        samples: G.
        collate: makes prompts of one length, with room for the pictures of a whole game.
        decode: tokens to text.
        config: of an answer; its `samples` is not read.
        key: of all draws, those of the environment too.
        first: number of the first game, on which its draws depend.
        layout: of the programs; default: what suits the mesh.
        rows: of a batch of N * G games or more, whose last rows are padding; default: N * G.

    Raises:
        ValueError: the games do not divide over the mesh, or an answer of one would be divided.
        DataError: no prompt can be made of a conversation.
        NonFiniteError: logits of an answer are NaN.
        RewardError: the environment gave something else than a step.
    """
    space = prepared(space)
    mesh = mesh_of(space)
    count = len(examples) * samples
    rows = rows or count
    _require_whole(mesh, rows)
    config = dataclasses.replace(config, samples=1)
    numbers = np.arange(rows, dtype=np.int32) + first
    # Turns have the keys 0 to K - 1.
    own = jax.random.fold_in(key, environment.turns)
    seeds = np.asarray(jax.vmap(lambda game: jax.random.bits(jax.random.fold_in(own, game)))(numbers[:count]))
    games = Games(environment, [example for example in examples for _ in range(samples)], seeds)
    turns: list[Turn] = []
    cuts = Cuts()
    while not games.over:
        made = collate(games.conversations, rows)
        _require_all(made, games.conversations)
        alive = games.alive
        prompts = place(made.batch, mesh, UPDATE)
        out = run_rollout(space, prompts, numbers[:, None], jax.random.fold_in(key, len(turns)), config, layout)
        names = [example.id for example in games.conversations]
        require_numbers(out, names)
        tokens, mask = (np.asarray(x) for x in to_host((out.tokens, out.mask)))
        games.answer([texts[0] for texts in decode(tokens[:count], mask[:count])])
        turns.append(Turn(prompts, out, alive, _sizes(made.batch, count)))
        cuts = Cuts(cuts.rows + made.cuts.rows, cuts.tokens + made.cuts.tokens)
    return Episodes(games, tuple(turns), cuts)


def _require_all(made: Collated, conversations: Sequence[Example]) -> None:
    """A game that is left out would give its answers to another."""
    if len(made.examples) < len(conversations):
        whole = {id(example) for example in made.examples}
        lost = next(example for example in conversations if id(example) not in whole)
        raise DataError(
            lost.where,
            None,
            f"the conversation of game {lost.id!r} of which no prompt can be made",
            "one of every game",
            "Correct the row or the environment's pictures; games are not skipped.",
        )


def _sizes(batch: Batch, count: int) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    tokens = np.asarray(batch.mask)[:count].sum(axis=1)
    if batch.images is None:
        return tokens, np.zeros_like(tokens)
    return tokens, np.asarray(batch.images.image_id)[:count].max(axis=1) + 1


def _require_whole(mesh: Mesh | None, rows: int) -> None:
    shape = {"data": 1, "fsdp": 1} if mesh is None else mesh.shape
    if axis := next((axis for axis in ("fsdp", WIDE) if shape.get(axis, 1) > 1), None):
        raise ValueError(
            f"Episodes on a mesh with {axis} = {shape[axis]}: each answer of a game is one sample, which is not "
            "divided. Use the axes data and tensor."
        )
    if rows % shape["data"]:
        raise ValueError(
            f"Episodes: {rows} games do not divide over data = {shape['data']}. Use prompts times samples that does."
        )


def stacked(episodes: Episodes, most: int, rows: int) -> tuple[Batch, Rollout]:
    """Prompts and rollouts of all turns as one batch of rows * K: the K turns of a game are neighbours.

    Turns that were not played are copies of the first one whose mask is empty, as is that of turns of games that were
    over.

    Args:
        episodes: with at least one turn.
        most: K.
        rows: of a turn, B and more that only fill it up.
    """
    parts = []
    for index in range(most):
        turn = episodes.turns[index] if index < len(episodes.turns) else episodes.turns[0]
        alive = np.zeros(rows, bool)
        if index < len(episodes.turns):
            alive[: len(turn.alive)] = turn.alive
        mask = turn.rollout.mask & jnp.asarray(alive)[:, None, None]
        parts.append((turn.prompts, turn.rollout.replace(mask=mask)))
    return _interleaved(parts)


@jax.jit
def _interleaved(parts: list[Any]) -> Any:
    def weave(*leaves: Array) -> Array:
        woven = jnp.stack(leaves, axis=1)
        return woven.reshape(-1, *woven.shape[2:])

    return jax.tree.map(weave, *parts)


def in_a_row(rollout: Rollout, samples: int, turns: int) -> Rollout:
    """The rollout of stacked turns [N * G * K, 1, T] as one completion a game, [N, G, K * T], to be shown."""

    def joined(x: Array) -> Array:
        return x.reshape(-1, samples, turns * x.shape[2], *x.shape[3:])

    return jax.tree.map(joined, rollout.replace(prompt_hidden=None, hidden=None))
