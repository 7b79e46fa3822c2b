"""A long RL phase of the demo at `tiny`: does host memory or the time of a step grow?

    python -m benchmarks.long_loop --steps 10000 --json long_loop.json
    python -m benchmarks.long_loop --steps 200 --prompts 64 --samples 8 --devices 8

The demo's recipe with few steps in stages 1 to 5, then so many steps of RL, in a process of its own; its memory is read
from outside. The phase is cut into ten parts; a leak of m bytes a step would show as a tenth of steps x m from part to
part. Where `--devices` is above 1 they are host devices, which share the cores; all lie along `data`.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

from lam_jax import run_recipe
from lam_jax.pipeline.results import environment
from lam_jax.recipes.demo import recipe
from lam_jax.recipes.quick import quick

PARTS = 10
PHASE = "rl_latent_role_play"
STAGES = ("inverse", "projector", "joint", "cloning", "sft")


@dataclasses.dataclass(frozen=True)
class Config:
    """How long, and where to.

    Attributes:
        steps: of RL; at least 100.
        prompts: of a step.
        samples: of a prompt.
        devices: that the prompts are divided over.
        json: where the figures go; default: nowhere.
        every: seconds between two looks at the memory.
        run: the folder of the run; default: one that is deleted.
        child: trains, in a process that the command starts itself.
    """

    steps: int = 10_000
    prompts: int = 2
    samples: int = 4
    devices: int = 1
    json: Path | None = None
    every: float = 1.0
    run: Path | None = None
    child: bool = False

    def __post_init__(self):
        if self.steps < 100:
            raise ValueError(f"--steps {self.steps}: ten parts of fewer than 10 steps each say nothing; at least 100.")


def train(config: Config, folder: Path) -> None:
    """The run; latent GRPO on role play alone."""
    short = quick(recipe(task=("role_play",), algorithm="grpo", space=("latent",)))
    rows = {name: dataclasses.replace(getattr(short, name), rows=8) for name in STAGES} if config.devices > 1 else {}
    rl = dataclasses.replace(short.rl, steps=config.steps, prompts=config.prompts, samples=config.samples)
    run_recipe(dataclasses.replace(short, rl=rl, **rows), folder, mesh=(config.devices, 1, 1), save_every=1_000)


def resident(process: int) -> int:
    """Bytes of a process's memory that are in RAM, from Linux's /proc."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"Process {process} has ended.")


def watch(config: Config, folder: Path) -> list[tuple[float, int]]:
    """Runs the child; (time, bytes) of every look.

    Raises:
        CalledProcessError: the run failed.
    """
    sizes = [f"--{name}={getattr(config, name)}" for name in ("steps", "prompts", "samples", "devices")]
    command = [sys.executable, "-m", "benchmarks.long_loop", "--child", *sizes, "--run", str(folder)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={config.devices}".strip()
    looks = []
    with subprocess.Popen(command, env={**os.environ, "XLA_FLAGS": flags}) as child:
        while child.poll() is None:
            try:
                looks.append((time.time(), resident(child.pid)))
            except (ProcessLookupError, FileNotFoundError):
                break
            time.sleep(config.every)
    if child.wait():
        raise subprocess.CalledProcessError(child.returncode, command)
    return looks


def parts_of(records: list[dict[str, Any]], looks: list[tuple[float, int]]) -> list[dict[str, float]]:
    """Of each tenth of the phase: last step, median seconds of a step, largest memory."""
    size = len(records) // PARTS
    found = []
    for start in range(0, size * PARTS, size):
        steps = records[start : start + size]
        begun, ended = steps[0]["time"] - steps[0]["step_s"], steps[-1]["time"]
        memory = [bytes_ for at, bytes_ in looks if begun <= at <= ended]
        if not memory:
            raise ValueError(f"No look at the memory between steps {start} and {start + size}: lower --every.")
        seconds = statistics.median(step["step_s"] for step in steps)
        found.append({"to_step": steps[-1]["step"], "step_s": seconds, "memory": max(memory)})
    return found


def run(config: Config, folder: Path) -> dict[str, Any]:
    """Trains, reads the metrics and returns the figures."""
    looks = watch(config, folder)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["phase"] == PHASE and "step_s" in record]
    if len(records) != config.steps:
        raise ValueError(f"{folder}/metrics.jsonl has {len(records)} steps of {PHASE}, expected {config.steps}.")
    parts = parts_of(records, looks)
    print(f"{'to step':>8} {'median step, s':>15} {'largest memory, MiB':>20}")
    for part in parts:
        print(f"{part['to_step']:>8,} {part['step_s']:>15.4f} {part['memory'] / 2**20:>20,.0f}")
    sizes = {name: getattr(config, name) for name in ("steps", "prompts", "samples", "devices")}
    return {**sizes, "environment": environment(), "parts": parts}


def main(config: Config) -> None:
    """The command."""
    if config.child:
        assert config.run is not None
        train(config, config.run)
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = run(config, config.run or Path(scratch) / "run")
    if config.json is not None:
        config.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
