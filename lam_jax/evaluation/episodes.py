"""Answers of games, for evaluation: batches of one shape, games numbered globally."""

import dataclasses
from collections.abc import Sequence
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
from lam_jax.rollout.episodes import Collate, play
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
        games = episodes.games
        tokens, actions, logps, mask = (
            [np.asarray(x)[:, 0] for x in column]
            for column in zip(
                *(
                    to_host((t.rollout.tokens, t.rollout.actions, t.rollout.logps, t.rollout.mask))
                    for t in episodes.turns
                ),
                strict=True,
            )
        )
        verdicts = games.verdicts()

        def played(game: int) -> Played:
            own: dict[str, list[Any]] = {"tokens": [], "actions": [], "logps": []}
            finished = True
            for number, turn in enumerate(episodes.turns):  # noqa: B023, called at once
                if not turn.alive[game]:
                    break
                keep = mask[number][game]  # noqa: B023
                ids = tokens[number][game][keep].tolist()  # noqa: B023
                own["tokens"] += ids
                own["actions"] += actions[number][game][keep].tolist()  # noqa: B023
                own["logps"] += [float(str(x)) for x in logps[number][game][keep]]  # noqa: B023
                finished = finished and bool(ids) and ids[-1] in ends
            return Played(" ".join(games.answers[game]), **own, finished=finished, verdict=verdicts[game])  # noqa: B023

        for row, example in enumerate(part):
            numbers = range(row * samples, (row + 1) * samples)
            found.append(Answered(example, [dataclasses.replace(played(number)) for number in numbers]))
    return found
