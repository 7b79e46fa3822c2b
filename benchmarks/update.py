"""Policy updates: latent, token as released, and token with as many trainable blocks as the latent policy.

python -m benchmarks.update --preset mid --json update.json
"""

import tyro

from benchmarks.programs import UPDATES, UpdateKind, UpdateProgram
from benchmarks.session import Options, Session
from benchmarks.workload import METHOD, Workload, make_agent
from lam_jax.train.counting import latent_update, plain_token_update, token_update


def update_flops(work: Workload, kind: UpdateKind) -> float:
    """Useful FLOPs of an update."""
    sizes = (work.prompts, work.samples, work.prompt, work.completion)
    if kind == "latent":
        return latent_update(work.config, work.latent, *sizes)
    if kind == "token":
        return token_update(work.config, METHOD.trained_blocks(work.config.text.layers), True, work.grid, *sizes)
    return token_update(work.config, work.latent.policy_layers, False, work.grid, *sizes)


def plain_update_flops(work: Workload) -> float:
    """Useful FLOPs of the token update as released, which shares nothing between the samples of a prompt."""
    sizes = (work.prompts, work.samples, work.prompt, work.completion)
    return plain_token_update(work.config, METHOD.trained_blocks(work.config.text.layers), work.grid, *sizes)


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
