"""Optimiser steps of stages 1 to 5 against the matmul peak.

python -m benchmarks.stages --preset mid --json stages.json
"""

import tyro

from benchmarks.programs import StageProgram, stage_parts
from benchmarks.session import Options, Session
from benchmarks.stage_counting import STAGE_FLOPS, StageSizes
from benchmarks.workload import METHOD, make_agent
from lam_jax.train.partition import partition
from lam_jax.train.stages import STAGES


def run(options: Options) -> list:
    """Times everything and returns the records."""
    session = Session(options)
    work = session.work
    agent = make_agent(work)
    trained = METHOD.trained_blocks(work.config.text.layers)
    sizes = StageSizes(work.config, work.latent, work.rows, work.prompt, work.grid, trained)
    times = session.compare(
        {name: StageProgram(partition(agent, stage_parts(work, stage)), work, stage) for name, stage in STAGES.items()}
    ).seconds
    for stage, seconds in times.items():
        flops = STAGE_FLOPS[stage](sizes)
        session.add(f"stage.{stage}.s", seconds, "s", lambda p, f=flops: f / p.flops_per_s)
        name = f"stage.{stage}.peak_share"
        session.add_share(name, seconds, lambda p, f=flops: f / p.flops_per_s)
    return session.finish()


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__))
