"""Answers of games, for evaluation: batches of one shape, games numbered globally."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from lam_jax.data.schemas import Example
from lam_jax.environments.environment import Environment
from lam_jax.evaluation.generate import Answered, Played
from lam_jax.parallel import mesh_of
from lam_jax.parallel.multihost import to_host
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.episodes import Collate, Episodes, play
from lam_jax.rollout.run import prepared


def play_answers(
    space: ActionSpace,
    environment: Environment,
    examples: Sequence[Example],
    collate: Collate,
    tokenizer: Any,
    config: RolloutConfig,
    key: jax.Array,
    batch_size: int,
) -> list[Answered]:
    """Plays `config.samples` games of each example, in order: the answers of a game are one, with its verdict.

    Raises:
        NonFiniteError: logits of an answer are NaN.
        RewardError: the environment gave something else than a step.
    """
    space = prepared(space)
    ends, samples = space.backbone.config.eos_ids, config.samples
    mesh = mesh_of(space)
    shards = 1 if mesh is None else mesh.shape["data"]
    rows = min(batch_size, len(examples)) * samples
    rows += -rows % shards

    def decode(tokens: np.ndarray, mask: np.ndarray) -> list[list[str]]:
        said = [[int(t) for t in row[keep] if int(t) not in ends] for row, keep in zip(tokens[:, 0], mask[:, 0])]
        return [[text] for text in tokenizer.batch_decode(said, skip_special_tokens=True)]

    found: list[Answered] = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        episodes = play(
            space, environment, part, samples, collate, decode, config, key, first=start * samples, rows=rows
        )
        answers = _answers(episodes, ends)
        found += [Answered(example, answers[row * samples : (row + 1) * samples]) for row, example in enumerate(part)]
    return found


def _answers(episodes: Episodes, ends: Collection[int]) -> list[Played]:
    """The answers of each game, one behind the other."""
    drawn = [
        tuple(np.asarray(x)[:, 0] for x in to_host((out.tokens, out.actions, out.logps, out.mask)))
        for out in (turn.rollout for turn in episodes.turns)
    ]
    games, found = episodes.games, []
    for game, verdict in enumerate(games.verdicts()):
        own: dict[str, list[Any]] = {"tokens": [], "actions": [], "logps": []}
        finished = True
        for turn, (tokens, actions, logps, mask) in zip(episodes.turns, drawn, strict=True):
            if not turn.alive[game]:
                break
            kept = mask[game]
            ids = tokens[game][kept].tolist()
            own["tokens"] += ids
            own["actions"] += actions[game][kept].tolist()
            own["logps"] += [float(str(x)) for x in logps[game][kept]]  # the digits of a float32
            finished = finished and bool(ids) and ids[-1] in ends
        found.append(Played(" ".join(games.answers[game]), **own, finished=finished, verdict=verdict))
    return found
