"""The demo with a few steps a stage and one task: `python -m tests.end_to_end.quick_demo OUT SEED [MESH]`."""

import dataclasses
import sys
from pathlib import Path

from lam_jax.cpu.host_memory import keep_host_memory
from lam_jax.demo import run_demo
from lam_jax.demo.settings import DemoConfig
from lam_jax.parallel.processes import start
from lam_jax.scenes.builder import SceneSizes

SIZES = SceneSizes(
    paired={"train": 96, "test": 32, "caption_test": 32},
    text_only={"train": 96, "test": 32},
    role_play={"sft": 8, "rl": 8, "val": 8, "id_test": 8, "ood_test": 8},
    help={"sft": 48, "rl": 64, "val": 32, "ls1": 16, "ls2": 16},
)


def quick_config(seed: int) -> DemoConfig:
    """Same shapes as the demo, so that compiled programs can be shared, but hardly any steps."""
    config = DemoConfig(seed=seed, tasks=("help",), algorithms={"help": "grpo"}, sizes=SIZES)
    short = {
        name: dataclasses.replace(getattr(config, name), steps=3)
        for name in ("inverse", "projector", "joint", "cloning", "sft")
    }
    return dataclasses.replace(config, **short, rl_steps=2, score_prompts=16, gain_prompts=64)


if __name__ == "__main__":
    start()
    keep_host_memory()
    shape = tuple(int(size) for size in sys.argv[3].split("x")) if len(sys.argv) > 3 else (1, 1, 1)
    run_demo(Path(sys.argv[1]), config=quick_config(int(sys.argv[2])), mesh=shape, save_every=2)
