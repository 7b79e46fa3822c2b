"""Optimiser steps of stages 1 to 5 against the matmul peak.

python -m benchmarks.stages --preset mid --json stages.json
"""

from typing import Any

import jax
import tyro

from benchmarks.session import Options, Session
from benchmarks.stage_counting import STAGE_FLOPS, StageSizes
from benchmarks.workload import METHOD, Workload, make_agent, make_batch
from lam_jax.latent.agent import Agent
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.stages import STAGES, MixedBatch, Stage, Step
from lam_jax.train.state import TrainState


class StageProgram:
    """An optimiser step of one stage on one batch; the state moves on."""

    def __init__(self, agent: Agent, work: Workload, stage: Stage):
        trainable, frozen = partition(agent, stage.trains(work.config, METHOD))
        optimiser = make_optimiser(OptimiserConfig(lr=1e-4), 1000)
        self.state = TrainState.create(trainable, optimiser, jax.random.key(0))
        self.step = Step(stage, frozen, optimiser, METHOD)
        paired = make_batch(work, work.rows, work.prompt)
        self.batch: Any = paired
        if stage.mixed:
            self.batch = MixedBatch(paired, make_batch(work, work.rows, work.prompt, pictures=False, seed=1))

    def __call__(self) -> dict[str, jax.Array]:
        self.state, metrics = self.step(self.state, self.batch)
        return metrics

    def lower(self) -> jax.stages.Lowered:
        """The lowered program."""
        return self.step.lower(self.state, self.batch)


def run(options: Options) -> list:
    """Times everything and returns the records."""
    session = Session(options)
    work = session.work
    agent = make_agent(work)
    trained = METHOD.trained_blocks(work.config.text.layers)
    sizes = StageSizes(work.config, work.latent, work.rows, work.prompt, work.grid, trained)
    times = session.compare({name: StageProgram(agent, work, stage) for name, stage in STAGES.items()}).seconds
    for stage, seconds in times.items():
        flops = STAGE_FLOPS[stage](sizes)
        session.add(f"stage.{stage}.s", seconds, "s", lambda p, f=flops: f / p.flops_per_s)
        name = f"stage.{stage}.peak_share"
        session.add_share(name, seconds, lambda p, f=flops: f / p.flops_per_s)
    return session.finish()


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__))
