"""Compile times of the programs, from nothing and from the persistent cache.

python -m benchmarks.compile --preset mid --json compile.json
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import tyro

from benchmarks.programs import UPDATES, StageProgram, UpdateProgram, stage_parts
from benchmarks.session import Options, Session
from benchmarks.workload import make_agent, prompts, rl_config, sample_ids, spaces
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.rollout.run import jitted
from lam_jax.train.partition import partition
from lam_jax.train.stages import STAGES


def run(options: Options) -> list:
    """Compiles everything twice and returns the records."""
    session = Session(options)
    work = session.work
    agent = make_agent(work)
    batch, ids = prompts(work), sample_ids(work.prompts, work.samples)
    programs: dict[str, Callable[[], Any]] = {}
    for name, space in spaces(agent).items():
        config = rl_config(work, name).rollout
        programs[f"rollout.{name}"] = lambda s=space, c=config: jitted.lower(
            s, batch, ids, jax.random.key(0), config=c, mesh=None, layout=choose_layout(None)
        )
    for kind in UPDATES:
        programs[f"update.{kind}"] = UpdateProgram(agent, work, kind).lower
    for name, stage in STAGES.items():
        programs[f"stage.{name}"] = StageProgram(partition(agent, stage_parts(work, stage)), work, stage).lower
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for name, lower in programs.items():
            session.say(f"compiling {name}")
            for kind in ("cold", "cached"):
                jax.clear_caches()
                start = time.perf_counter()
                lowered = lower()
                traced = time.perf_counter()
                lowered.compile()
                done = time.perf_counter()
                if kind == "cold":
                    session.add(f"compile.{name}.trace_s", [traced - start], "s")
                session.add(f"compile.{name}.{kind}_s", [done - traced], "s")
        jax.config.update("jax_compilation_cache_dir", None)
    return session.finish()


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__))
