"""What the repairs of latent RL cost at a published size, counted by formula: `python -m benchmarks.repairs`.

RL as in the paper's settings, 4 prompts x 8 samples of 1024 + 1024 tokens with a picture each; stage 5 on 4 rows of
2048 tokens. Weights and bytes in bfloat16.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks.stage_counting import STAGE_FLOPS, StageSizes
from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LATENT_PRESETS, LatentConfig
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import PRESETS
from lam_jax.nn.stored import Storage
from lam_jax.nn.weight import is_weight
from lam_jax.train.counting import decode_bytes, rollout_flops, vision
from lam_jax.train.method import Method
from lam_jax.train.partition import count_parameters, partition
from lam_jax.train.spaces import SPACES

RL = {"prompts": 4, "samples": 8, "prompt": 1024, "length": 1024}
GRID = (20, 30)  # patches of 280 x 420 pixels
ROWS, LENGTH = 4, 2048
ITEM = 2
CODES = (128, 256, 1024)


@dataclasses.dataclass(frozen=True)
class Config:
    """Prints the tables."""

    preset: str = "qwen2_5_vl_3b"


def shapes(specs: Agent) -> Any:
    """Of all weights, without their values."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), specs, is_leaf=is_weight)


def rl_rows(config: BackboneConfig, latent: LatentConfig) -> Iterator[list[str]]:
    """An action space a row: FLOPs, bytes of a decode step, weights that train."""
    pictures = vision(config.vision, GRID, RL["prompts"]).forward
    spaces = [("token", None), *(("latent", codes) for codes in CODES), ("hybrid", CODES[0])]
    narrow: list[tuple[str, int | None, Storage]] = [(name, CODES[0], "int8") for name in ("latent", "hybrid")]
    for name, codes, storage in [*((*case, "same") for case in spaces), *narrow]:
        own = dataclasses.replace(latent, codes=codes or latent.codes)
        coded = own if codes else None
        rollout = rollout_flops(config, coded, GRID, **RL)
        update = SPACES[name].update_flops(config, own, Method(), pictures, True, **RL)
        head = "same" if SPACES[name].emits else storage
        step = decode_bytes(config, coded, **RL, item=ITEM, blocks=storage, head=head)
        trained, _ = partition(shapes(Agent.spec(config, own)), SPACES[name].trains(config, Method()))
        yield [
            (name if codes is None else f"{name}, {codes} codes") + (f", {storage}" if storage != "same" else ""),
            *(f"{flops / 1e12:,.0f}" for flops in (rollout, update)),
            f"{step.total / 1e9:.2f}",
            f"{count_parameters(trained) / 1e6:,.0f}",
        ]


def sft_rows(config: BackboneConfig, latent: LatentConfig) -> Iterator[list[str]]:
    """A recipe of stage 5 a row."""
    blocks = Method().trained_blocks(config.text.layers)
    sizes = StageSizes(config, latent, ROWS, LENGTH, GRID, blocks)
    for name in ("sft_token", "sft_latent", "sft_learn"):
        yield [name, f"{STAGE_FLOPS[name](sizes) / 1e12:,.0f}"]


def table(heads: list[str], rows: Iterator[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))


def main(given: Config) -> None:
    config, latent = PRESETS[given.preset], LATENT_PRESETS[given.preset]
    heads = ["space", "rollout, TFLOP", "update, TFLOP", "bytes of a decode step, GB", "trained weights, million"]
    print(f"{given.preset}, {Path(__file__).stem}: counted\n")
    print(table(heads, rl_rows(config, latent)), "\n")
    print(table(["stage 5", "step, TFLOP"], sft_rows(config, latent)))


if __name__ == "__main__":
    main(tyro.cli(Config))
