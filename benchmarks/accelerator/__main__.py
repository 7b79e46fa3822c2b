"""Measures lam_jax on the accelerator that is at hand, most valuable figures first, in the given minutes.

    python -m benchmarks.accelerator --minutes 9 --out results

Every item runs in a process of its own and writes its figures to OUT/accelerator.json as it finds them; a second call
with the same --out goes on where the first one stopped. Needs jax, flax, optax, orbax, numpy, transformers,
safetensors, jaxtyping and pillow; the item `torch` needs torch.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.accelerator.results import Results, read

# Name -> seconds that it needs at least to be worth a start on the 3B model.
ITEMS = {"device": 10, "equality": 20, "latent": 40, "token": 40, "torch": 40, "many": 60, "stages": 30}
LEAST = 5  # of other presets


def item(name: str) -> Callable:
    """What measures an item; imported in its own process only, since it starts the devices."""
    if name in ("device", "equality"):
        from benchmarks.accelerator import device as module
    elif name in ("latent", "token", "many"):
        from benchmarks.accelerator import learning as module
    elif name == "torch":
        from benchmarks.accelerator import torch_side

        return torch_side.torch_side
    else:
        from benchmarks.accelerator import stages as module
    return getattr(module, name)


def run_item(name: str, preset: str, folder: Path, deadline: float) -> None:
    """Measures one item in this process."""
    from benchmarks.records import environment
    from benchmarks.workload import WORKLOADS

    results = Results(folder, name, deadline)
    began = time.time()
    results.save(environment=environment(preset=preset))
    item(name)(results, WORKLOADS[preset])
    earlier = results.own.get("seconds", 0.0)
    results.save(done=not results.own.get("errors"), seconds=earlier + time.time() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the items that are not done; 1 if one failed, 0 also where time ran out."""
    from benchmarks.workload import WORKLOADS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="that the whole command may take")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, also of an earlier call")
    parser.add_argument("--preset", default="qwen2_5_vl_3b", choices=sorted(WORKLOADS), help="whose sizes are run")
    parser.add_argument("--items", nargs="+", default=list(ITEMS), choices=list(ITEMS), help="which ones, in order")
    parser.add_argument("--item", choices=list(ITEMS), help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.item:
        run_item(chosen.item, chosen.preset, chosen.out, chosen.deadline)
        return 0
    if chosen.minutes <= 0:
        parser.error(f"--minutes is {chosen.minutes}, expected more than 0.")
    try:
        done = read(chosen.out)["items"]
    except ValueError as error:
        parser.error(str(error))
    chosen.out.mkdir(parents=True, exist_ok=True)
    return _run_all(chosen, done, time.time() + 60 * chosen.minutes)


def _run_all(chosen: argparse.Namespace, before: dict, deadline: float) -> int:
    failed = 0
    for name in chosen.items:
        if before.get(name, {}).get("done"):
            print(f"{name}: done before", flush=True)
            continue
        if name == "torch" and importlib.util.find_spec("torch") is None:
            print("torch: left out, torch is not installed", flush=True)
            continue
        least = ITEMS[name] if chosen.preset.startswith("qwen") else LEAST
        left = deadline - time.time()
        if left < least:
            print(f"{name}: left out, {left:.0f} s are left; call again with the same --out", flush=True)
            continue
        command = [sys.executable, "-m", "benchmarks.accelerator", "--item", name, "--preset", chosen.preset]
        command += ["--out", str(chosen.out), "--deadline", str(deadline)]
        print(f"{name}: starts, {left:.0f} s are left", flush=True)
        try:
            status = subprocess.run(command, check=False, timeout=left, env=_environment(name)).returncode
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped, time is up; what it found is kept", flush=True)
            continue
        if status:
            Results(chosen.out, name).save(error=f"its process ended with status {status}")
            print(f"{name}: FAILED with status {status}", flush=True)
        failed += status != 0 or bool(Results(chosen.out, name).own.get("errors"))
    return int(failed > 0)


def _environment(name: str) -> dict[str, str]:
    """More memory than the 75 % that jax takes by itself; torch needs what jax would take at its start."""
    given = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"} | os.environ
    return given | ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if name == "torch" else {})


if __name__ == "__main__":
    sys.exit(main())
