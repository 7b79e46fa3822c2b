"""Memory and FLOPs of the updates, FLOPs of whole steps: of compiled programs at full size, without running them.

    python -m benchmarks.memory --preset mid --json memory.json
    python -m benchmarks.memory --preset qwen2_5_vl_3b --json memory_3b.json

Everything here is counted: bytes from XLA's own plan of the compiled program, FLOPs from the sizes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import tyro

from benchmarks.programs import UPDATES, UpdateKind, update_parts
from benchmarks.session import Options, Session
from benchmarks.update_counting import plain_update_flops, update_flops
from benchmarks.workload import METHOD, Workload, prompts, rl_config, sample_ids
from lam_jax.latent.agent import Agent
from lam_jax.nn.weight import structs
from lam_jax.rollout.engine import rollout
from lam_jax.train.counting import rollout_flops
from lam_jax.train.optimiser import make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.rl_update import Update
from lam_jax.train.state import TrainState


def compiled_update(work: Workload, kind: UpdateKind) -> Any:
    """The compiled update, from shapes alone."""
    space, parts = update_parts(work, kind)
    config = rl_config(work, space.name)
    agent = structs(Agent.spec(work.config, work.latent))
    batch = jax.eval_shape(lambda: prompts(work))
    ids = jax.eval_shape(lambda: sample_ids(work.prompts, work.samples))
    key = jax.eval_shape(lambda: jax.random.key(0))
    out = jax.eval_shape(
        lambda a, b, i, k: rollout(space.actions(a, METHOD), b, i, k, config.rollout), agent, batch, ids, key
    )
    advantages = jax.ShapeDtypeStruct((work.prompts, work.samples), jnp.float32)
    recorded = RLBatch(batch, out, advantages, out.mask)
    trainable, frozen = partition(agent, parts)
    optimiser = make_optimiser(config.optimiser, config.steps)
    # Frozen weights rest in the compute dtype; trained ones and their reference are float32 masters.
    frozen = jax.tree.map(lambda x: x.update(dtype=work.config.dtype), frozen)
    state = TrainState(
        trainable, jax.eval_shape(optimiser.transform.init, trainable), jax.ShapeDtypeStruct((), jnp.int32), key
    )
    return Update(config, METHOD, optimiser, frozen, trainable).lower(state, recorded).compile()


def run(options: Options) -> list:
    """Compiles the updates and returns the records."""
    session = Session(options)
    work = session.work
    peaks = {}
    for kind in UPDATES:
        session.say(f"compiling update.{kind}")
        memory = compiled_update(work, kind).memory_analysis()
        temporary, arguments = memory.temp_size_in_bytes, memory.argument_size_in_bytes
        peaks[kind] = temporary + arguments + memory.output_size_in_bytes - memory.alias_size_in_bytes
        session.add_counted(f"memory.update.{kind}.temporary", temporary, "bytes")
        session.add_counted(f"memory.update.{kind}.peak", peaks[kind], "bytes", "arguments, temporaries, new outputs")
        session.add_counted(f"flops.update.{kind}", update_flops(work, kind), "FLOP", "useful, by formula")
    for kind in UPDATES[1:]:
        flops = update_flops(work, "latent") / update_flops(work, kind)
        session.add_counted(f"flops.update.latent_over_{kind}", flops, "ratio")
        session.add_counted(f"memory.update.latent_over_{kind}", peaks["latent"] / peaks[kind], "ratio")
    released = update_flops(work, "latent") / plain_update_flops(work)
    session.add_counted("flops.update.latent_over_released_token", released, "ratio", "prompt once per sample there")
    sizes = (work.grid, work.prompts, work.samples, work.prompt, work.completion)
    steps = {}
    for kind, latent in (("latent", work.latent), ("token", None)):
        flops = rollout_flops(work.config, latent, *sizes)
        steps[kind] = flops + update_flops(work, kind)
        session.add_counted(f"flops.rollout.{kind}", flops, "FLOP", "useful, by formula")
    session.add_counted("flops.step.latent_over_token", steps["latent"] / steps["token"], "ratio", "rollout and update")
    return session.finish()


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__))
