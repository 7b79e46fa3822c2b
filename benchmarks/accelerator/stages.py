"""Item `stages`: an optimiser step of each of stages 1 to 5."""

from typing import Any

import jax

from benchmarks.accelerator.results import Results
from benchmarks.accelerator.timing import timed
from benchmarks.floors import measure_peaks
from benchmarks.programs import StageProgram, stage_parts
from benchmarks.stage_counting import STAGE_FLOPS, StageSizes
from benchmarks.workload import METHOD, Workload, make_halves
from lam_jax.train.stages import STAGES


def stages(results: Results, work: Workload) -> None:
    """Seconds, share of the matmul peak and compile time of each."""
    peaks = measure_peaks(work.config.compute_dtype)
    trained = METHOD.trained_blocks(work.config.text.layers)
    sizes = StageSizes(work.config, work.latent, work.rows, work.prompt, work.grid, trained)
    for name, stage in STAGES.items():
        if results.has(f"{name}.s"):
            continue
        with results.part(name):
            program: Any = StageProgram(make_halves(work, stage_parts(work, stage)), work, stage)
            found = timed(program, 3)
            flops = STAGE_FLOPS[name](sizes)
            results.add(f"{name}.s", found.median, "s", floor=flops / peaks.flops_per_s, repeats=found.seconds)
            results.add(f"{name}.peak_share", flops / found.median / peaks.flops_per_s, "share")
            results.add(f"{name}.compile_s", found.compile_s, "s")
            results.add(f"{name}.recompiled", found.recompiled, "count")
            del program
            jax.clear_caches()
