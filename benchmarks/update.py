"""Policy updates: latent, token as released, and token with as many trainable blocks as the latent policy.

python -m benchmarks.update --preset mid --json update.json
"""

import tyro

from benchmarks.programs import UPDATES, UpdateProgram
from benchmarks.session import Options, Session
from benchmarks.update_counting import update_flops
from benchmarks.workload import make_agent


def run(options: Options) -> list:
    """Times everything and returns the records."""
    session = Session(options)
    work = session.work
    agent = make_agent(work)
    programs = {kind: UpdateProgram(agent, work, kind) for kind in UPDATES}
    times = session.compare(dict(programs)).seconds
    for kind, program in programs.items():
        flops = update_flops(work, kind)
        session.add(f"update.{kind}.s", times[kind], "s", lambda p, f=flops: f / p.flops_per_s)
        name = f"update.{kind}.peak_share"
        session.add_share(name, times[kind], lambda p, f=flops: f / p.flops_per_s)
        session.add_counted(f"update.{kind}.parameters", program.parameters, "count", "trainable")
    for kind in UPDATES[1:]:
        session.add_ratio(f"update.latent_over_{kind}", times["latent"], times[kind])
    return session.finish()


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__))
