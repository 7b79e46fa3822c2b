"""What quick compilation saves a short demo, and costs it: `python -m benchmarks.compile_time`.

The demo's programs with few steps of each, in a process with XLA's own flags and in one with those of
`lam_jax.hosts.quick_compilation`, one after the other and without the compilation cache. Seconds in the compiler by
phase, and the median step of each phase but its first.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import tyro

STEPS, RL_STEPS = 20, 5
ROWS = {"sft": 24, "rl": 24, "val": 8, "id_test": 8, "ood_test": 8}


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs both and prints their table."""

    json: Path | None = None
    """Also writes what was found here."""
    child: Path | None = None
    """Used by the benchmark itself: one run, into this folder."""
    quick: bool = False
    """Of a child: with quick compilation."""


def run_once(folder: Path, quick: bool) -> None:
    """A short demo into the folder."""
    from lam_jax.hosts.quick_compilation import compile_quickly
    from lam_jax.hosts.start import start_process
    from lam_jax.pipeline import run_recipe
    from lam_jax.recipes.demo import demo_sizes, recipe

    if quick:
        compile_quickly()
    start_process()
    text = {"train": 96, "test": 32}
    sizes = dataclasses.replace(demo_sizes(), paired=text | {"caption_test": 32}, text_only=text, role_play=ROWS)
    whole = recipe(3, ("role_play",), "grpo", sizes=sizes)
    names = ("inverse", "projector", "joint", "cloning", "sft")
    short: dict[str, Any] = {name: dataclasses.replace(getattr(whole, name), steps=STEPS) for name in names}
    evaluation = dataclasses.replace(whole.evaluation, prompts=8, gain_prompts=16)
    rl = dataclasses.replace(whole.rl, steps=RL_STEPS)
    run_recipe(dataclasses.replace(whole, **short, rl=rl, evaluation=evaluation), folder, save_every=100)


def measured(quick: bool) -> dict[str, Any]:
    """Seconds of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.compile_time", "--child", folder, *(["--quick"] if quick else [])]
        environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0", "JAX_PLATFORMS": "cpu"}
        subprocess.run(command, check=True, env=environment)
        phases = json.loads((Path(folder) / "results.json").read_text())["phases"]
        steps = defaultdict(list)
        for line in (Path(folder) / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            for name in ("step_s", "rollout_s", "update_s"):
                if name in row:
                    steps[f"{row['phase']} {name}"].append(row[name])
    return {
        "seconds": sum(phase["seconds"] for phase in phases),
        "compiling": {phase["name"]: phase["compile_seconds"] for phase in phases},
        "steps": {name: statistics.median(values[1:]) for name, values in steps.items()},
    }


def main(config: Config) -> None:
    """Runs the benchmark."""
    if config.child is not None:
        run_once(config.child, config.quick)
        return
    plain, quick = measured(False), measured(True)
    if config.json is not None:
        config.json.write_text(json.dumps({"plain": plain, "quick": quick}, indent=1))
    print(f"\nwhole run: {plain['seconds']:.0f} s, quickly {quick['seconds']:.0f} s")
    one, other = (sum(found["compiling"].values()) for found in (plain, quick))
    print(f"compiling: {one:.0f} s, quickly {other:.0f} s ({other / one:.2f})")
    for name, value in plain["steps"].items():
        print(f"{name}: {value:.3f} s, quickly {quick['steps'][name]:.3f} s ({quick['steps'][name] / value:.2f})")


if __name__ == "__main__":
    main(tyro.cli(Config))
