"""Memory of a chip in the latent update when attention makes its scores for a block of queries at a time, and at once.

    pip install 'lam_jax[aot]'
    python -m benchmarks.query_blocks --json benchmarks/results/query_blocks.json

Counted by the TPU compiler for a slice that is not attached, as by `lam-jax compile`.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import tyro

from lam_jax.aot.programs import Setting, load_of
from lam_jax.aot.report import check
from lam_jax.aot.topology import chip_of, topology_devices, topology_mesh
from lam_jax.aot.workload import Workload
from lam_jax.nn import attention
from lam_jax.parallel.choose_mesh import choose_mesh

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class QueryBlockOptions:
    """Command line.

    Attributes:
        preset: whose sizes are compiled.
        topology: TPU slice.
        completions: T, tokens of a completion.
        blocks: queries at a time; 0 makes all scores at once.
        json: where the records go; default: nowhere.
    """

    preset: str = "qwen2_5_vl_3b"
    topology: str = "v5e:4x4"
    completions: tuple[int, ...] = (1024, 4096)
    blocks: tuple[int, ...] = (attention.QUERY_BLOCK, 0)
    json: Path | None = None


def run(options: QueryBlockOptions) -> list[dict]:
    """Compiles everything and returns the records."""
    jax.config.update("jax_platforms", "cpu")
    chip, devices = chip_of(options.topology), topology_devices(options.topology)
    records = []
    for completion in options.completions:
        work = Workload.of(len(devices), completion=completion)
        shape = choose_mesh(load_of(options.preset, work), len(devices), int(chip.hbm)).shape
        setting = Setting(options.preset, topology_mesh(devices, shape), work)
        for block in options.blocks:
            attention.QUERY_BLOCK = block or sys.maxsize
            jax.clear_caches()  # the block is no argument of the traced functions
            report = check("update_latent", setting, options.topology, chip)
            memory = report.memory.total / GIB if report.memory else None
            records.append(
                {"completion": completion, "block": block, "gib": memory, "fits": report.fits, "reason": report.reason}
            )
            size = f"{memory:.2f} GiB" if memory else report.reason
            print(f"{completion} tokens, {block or 'all'} queries at a time: {size}, fits: {report.fits}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({**dataclasses.asdict(options), "json": None, "records": records}, indent=1))
    return records


if __name__ == "__main__":
    run(tyro.cli(QueryBlockOptions, description=__doc__))
