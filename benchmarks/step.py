"""Whole RL steps in both action spaces, and compilations over 50 steps with natural lengths after a warm-up.

    python -m benchmarks.step --preset mid --json step.json

The reward is a random number, so a step is rollout, host work and update.
"""

import tyro

from benchmarks.programs import StepProgram, rl_parts, with_natural_ends
from benchmarks.session import Options, RecompiledError, Session
from benchmarks.workload import make_agent
from lam_jax.hosts.compilation import CompileClock
from lam_jax.train.partition import partition

STEPS = 50


def run(options: Options) -> list:
    """Times everything and returns the records.

    Raises:
        RecompiledError: a step compiled something after its warm-up; the records are written before.
    """
    session = Session(options)
    work = session.work
    agent = make_agent(work)
    programs = {name: StepProgram(partition(agent, rl_parts(work, name)), work, name) for name in ("latent", "token")}
    times = session.compare(dict(programs)).seconds
    for name, seconds in times.items():
        session.add(f"step.{name}.s", seconds, "s", note="every completion of full length")
    session.add_ratio("step.latent_over_token", times["latent"], times["token"])
    recompiled = 0
    for name in ("latent", "token"):
        ending = with_natural_ends(agent, work, name)
        natural = StepProgram(partition(ending, rl_parts(work, name)), work, name, stop=True)
        session.say(f"{STEPS} {name} steps with natural lengths")
        for _ in range(2):
            natural()
        with CompileClock() as clock:
            for _ in range(STEPS):
                natural()
        count = clock.programs
        session.add_counted(f"recompiles.{name}", count, "count", f"in {STEPS} steps")
        recompiled += count
    session.add_counted("recompiles", recompiled, "count", f"in {STEPS} steps of each action space")
    records = session.finish()
    if recompiled:
        raise RecompiledError(f"{recompiled} compilations in {STEPS} steps after warm-up, expected none.")
    return records


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__))
