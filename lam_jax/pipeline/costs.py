"""What reinforcement learning had cost by each step: samples drawn, seconds, and useful FLOPs."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lam_jax.latent.config import LatentConfig
from lam_jax.models.config import BackboneConfig
from lam_jax.models.inputs import Batch
from lam_jax.train.counting import Grid, rollout_flops, vision
from lam_jax.train.method import Method
from lam_jax.train.rl_config import RLConfig


@dataclasses.dataclass(frozen=True)
class PromptSize:
    """Means over a batch of prompts.

    Attributes:
        tokens: of a prompt, those of its picture included.
        grids: (height, width) in patches of each picture.
        pictures: of a prompt.
    """

    tokens: float
    grids: tuple[Grid, ...]
    pictures: float

    @classmethod
    def of(cls, batch: Batch) -> "PromptSize":
        """Of the rows of a batch that are not padding throughout."""
        mask = np.asarray(batch.mask)
        real = mask.any(axis=1)
        grids = []
        if batch.images is not None:
            ids, places = np.asarray(batch.images.image_id)[real], np.asarray(batch.images.patch_hw)[real]
            for row, number in itertools.product(range(len(ids)), range(ids.max(initial=-1) + 1)):
                if (own := ids[row] == number).any():
                    height, width = (int(size) + 1 for size in places[row][own].max(axis=0))
                    grids.append((height, width))
        return cls(float(mask[real].sum(axis=1).mean()), tuple(grids), len(grids) / max(1, int(real.sum())))


def played(first: PromptSize, records: Sequence[Mapping[str, Any]]) -> tuple[PromptSize, float]:
    """Of games: means over the answers of all logged steps of the conversations before them, and answers of a game.

    Args:
        first: of the prompts that games begin with, whose pictures are as large as all others.
        records: of the phase.
    """
    steps = [record for record in records if "turns_mean" in record]
    names = ("prompt_tokens", "prompt_pictures", "turns_mean")
    tokens, pictures, turns = (float(np.mean([record[name] for record in steps])) for name in names)
    return dataclasses.replace(first, tokens=tokens, pictures=pictures), turns


def step_flops(
    model: BackboneConfig,
    latent: LatentConfig,
    method: Method,
    config: RLConfig,
    prompt: PromptSize,
    turns: float = 0.0,
) -> Callable[[float, float], float]:
    """(mean tokens of a completion, rollouts) -> useful FLOPs of one RL step: its rollouts, and every pass over them.

    Counted from the sizes as `lam_jax.train.counting` does; the reward's own cost is left out. `turns`: answers of a
    game, whose tokens are those of the completion; each has a prompt of its own.
    """
    games = config.prompts * config.rollout.samples
    prompts, samples = (round(games * turns), 1) if turns else (config.prompts, config.rollout.samples)
    sizes = {"prompts": prompts, "samples": samples, "prompt": prompt.tokens}
    seen = sum(vision(model.vision, grid, 1).forward for grid in prompt.grids) / max(1, len(prompt.grids))
    pictures = prompts * prompt.pictures * seen
    reference = config.algorithm.beta > 0

    def flops(length: float, rollouts: float) -> float:
        length = length / turns if turns else length
        codes = latent if config.space.coded else None
        drawn = pictures + rollout_flops(model, codes, None, **sizes, length=length)
        update = config.space.update_flops(model, latent, method, pictures, reference, **sizes, length=length)
        return rollouts * drawn + config.epochs * update

    return flops


def rl_cost(
    records: Sequence[Mapping[str, Any]], config: RLConfig, flops: Callable[[float, float], float]
) -> dict[str, list[float]]:
    """Sums up to each logged step, as lists: "steps", "samples", "seconds", "flops".

    Args:
        records: of the phase; those of evaluations are passed over.
        config: of the phase.
        flops: see `step_flops`.
    """
    steps = [record for record in records if "rl_step_s" in record]
    rollouts = [1 + record.get("refills", 0.0) for record in steps]
    drawn = config.prompts * config.rollout.samples
    each = {
        "samples": [drawn * count for count in rollouts],
        "seconds": [record["rl_step_s"] for record in steps],
        "flops": [flops(record["length_mean"], count) for record, count in zip(steps, rollouts, strict=True)],
    }
    sums = {name: list(itertools.accumulate(values)) for name, values in each.items()}
    return {"steps": [record["step"] for record in steps], **sums}
