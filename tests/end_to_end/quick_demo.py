"""The demo with a few steps a stage and one task: `python -m tests.end_to_end.quick_demo OUT SEED [MESH]`."""

import dataclasses
import sys
from pathlib import Path

from lam_jax.hosts.start import start_process
from lam_jax.pipeline import run_recipe
from lam_jax.recipe import Recipe
from lam_jax.recipes.demo import recipe
from lam_jax.scenes.builder import SceneSizes
from lam_jax.train.spaces import PAPER_SPACES

SIZES = SceneSizes(
    paired={"train": 96, "test": 32, "caption_test": 32},
    text_only={"train": 96, "test": 32},
    role_play={"sft": 8, "rl": 8, "val": 8, "id_test": 8, "ood_test": 8},
    help={"sft": 48, "rl": 64, "val": 32, "ls1": 16, "ls2": 16},
)


def quick_recipe(seed: int) -> Recipe:
    """Same shapes as the demo, so that compiled programs can be shared, but hardly any steps."""
    whole = recipe(seed, ("help",), "grpo", sizes=SIZES, space=PAPER_SPACES)
    short = {
        name: dataclasses.replace(getattr(whole, name), steps=3)
        for name in ("inverse", "projector", "joint", "cloning", "sft")
    }
    evaluation = dataclasses.replace(whole.evaluation, prompts=16, gain_prompts=64)
    return dataclasses.replace(whole, **short, rl=dataclasses.replace(whole.rl, steps=2), evaluation=evaluation)


if __name__ == "__main__":
    start_process()
    shape = tuple(int(size) for size in sys.argv[3].split("x")) if len(sys.argv) > 3 else (1, 1, 1)
    run_recipe(quick_recipe(int(sys.argv[2])), Path(sys.argv[1]), mesh=shape, save_every=2)
