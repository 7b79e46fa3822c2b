"""A training stream with bad pictures on all processes: `python -m tests.processes.skipping FOLDER MESH`.

FOLDER holds rows.jsonl, of which the pictures 2 and 5 are bad. Prints the ids of each global batch, as far as this
process has them, and the metrics of skipped rows.
"""

import dataclasses
import sys
from pathlib import Path

import jax

from lam_jax.parallel.processes import start, whole_mesh
from lam_jax.pipeline.resources import Resources
from lam_jax.recipes import own


def main(folder: str, sizes: str) -> None:
    start()
    mesh = whole_mesh(tuple(int(size) for size in sizes.split("x")))
    file = str(Path(folder) / "rows.jsonl")
    recipe = dataclasses.replace(own.recipe(task=file, paired=file), bad_rows="skip")
    resources = Resources.open(recipe, Path(folder) / "data", mesh, run_folder=Path(folder))
    batches, _ = resources.batches("paired", "train", 4)
    for _ in range(6):
        batch = next(batches)
        totals = {name: int(value) for name, value in jax.device_get(resources.skipped.of_step()).items()}
        # A sum over the whole batch: the same on every process, and for any number of them.
        print("batch", int(jax.jit(lambda tokens: tokens.sum())(batch.tokens)), totals, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
