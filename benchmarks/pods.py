"""Compiles every program of the 3B and 7B presets for pods and cards: the results behind docs/pods_memory.md.

Of Qwen3-VL's 4B and 8B latent RL on pods.

    pip install 'lam_jax[aot,aot-gpu]'
    python -m benchmarks.pods                # cells that have a result are skipped; one process a cell, one at a time
    python -m benchmarks.pods h100:1 h100:8  # these topologies only

Latent RL comes first, so that an interrupted run has it.
"""

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lam_jax.aot.programs import STAGES
from lam_jax.aot.results import load, result_file

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "aot", ROOT / "docs" / "pods_memory.md"
PRESETS = ("qwen2_5_vl_3b", "qwen2_5_vl_7b")
QWEN3_PRESETS = ("qwen3_vl_4b", "qwen3_vl_8b")
PODS = ("v5e:4x4", "v5e:16x16", "v6e:16x16", "v5p:8x8x16")
CARDS = ("h100:1", "rtx4090:1", "h100:8")
# On cards as many samples everywhere, 4 prompts x 8: what changes is where they run.
PROMPTS = 4
# Of the prompts of an update on one card, which then go through it one by one.
MICRO_BATCHES = {"h100:1": PROMPTS, "rtx4090:1": PROMPTS}
# Chosen by hand where the automatic choice refuses: 7B's training state takes more than its share of 16 small chips.
MESHES = {("qwen2_5_vl_7b", "v5e:4x4"): "data=1,fsdp=4,tensor=4"}
LATENT_RL = ("rollout_latent", "update_latent")
Cell = tuple[str, str, str, str]  # preset, topology, stage, dtype
RL = tuple(stage for stage in STAGES if "rollout" in stage or "update" in stage)


def cells() -> list[Cell]:
    """All cells in the order of their weight; in float32 RL on cards."""
    topologies = (*PODS, *CARDS)
    rl = itertools.product(PRESETS, topologies, LATENT_RL, ("bfloat16",))
    qwen3 = itertools.product(QWEN3_PRESETS, PODS, LATENT_RL, ("bfloat16",))
    rest = itertools.product(PRESETS, topologies, STAGES, ("bfloat16",))
    return list(dict.fromkeys([*rl, *qwen3, *rest, *itertools.product(PRESETS, CARDS, RL, ("float32",))]))


def is_done(cell: Cell) -> bool:
    """Whether the cell has a result."""
    preset, topology, stage, dtype = cell
    return any(report["stage"] == stage for report in load(result_file(RESULTS, preset, topology, dtype)))


def main(topologies: Sequence[str] = ()) -> int:
    """Returns 1 if a cell could not be compiled; one that does not fit is a result."""
    failed = []
    for cell in cells():
        preset, topology, stage, dtype = cell
        if is_done(cell) or (topologies and topology not in topologies):
            continue
        command = ["compile", "--preset", preset, "--topology", topology, "--stage", stage, "--dtype", dtype]
        if mesh := MESHES.get((preset, topology)):
            command += ["--mesh", mesh]
        if topology in CARDS:
            command += ["--prompts", str(PROMPTS)]
        if stage.startswith("update") and topology in MICRO_BATCHES:
            command += ["--micro-batches", str(MICRO_BATCHES[topology])]
        files = ["--out", str(RESULTS), "--markdown", str(PAGE)]
        subprocess.run([sys.executable, "-m", "lam_jax", *command, *files], cwd=ROOT, check=False)
        if not is_done(cell):
            failed.append(cell)
    for cell in failed:
        print("could not be compiled:", *cell, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
