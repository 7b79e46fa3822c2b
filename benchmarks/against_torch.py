"""Our rollouts and updates beside transformers' in the same process, interleaved, on the same threads.

    python -m benchmarks.against_torch --preset mid --json against_torch.json
    python -m benchmarks.against_torch --preset mid --rollout-weights bfloat16 int8

Needs the extra `bench` (torch).
"""

import numpy as np
import tyro

from benchmarks.programs import UpdateProgram, rollout_programs
from benchmarks.session import Options, Session
from benchmarks.torch_baseline import TorchRollout, TorchUpdate, torch_model
from benchmarks.workload import make_agent

# Seconds until the threads of the library that ran before have stopped spinning.
SETTLE = 0.5


def run(options: Options) -> list:
    """Times everything and returns the records."""
    session = Session(options)
    work = session.work
    agent = make_agent(work)
    model = torch_model(agent.backbone)
    ours = rollout_programs(agent, work, options.rollout_weights)
    times = session.compare({**ours, "torch": TorchRollout(model, work)}, settle=SETTLE).seconds
    session.add("rollout.torch_token.tokens_per_s", [work.tokens / s for s in times["torch"]], "tokens/s")
    for name, program in ours.items():
        title, held = f"rollout.{name}_over_torch", program.config.weights
        note = "speed, as a multiple of `generate`" + ("" if held == "same" else f"; ours with the backbone in {held}")
        session.add_ratio(title, times["torch"], times[name], note=note)
    _updates(session, agent, model, np.asarray(ours["token"]().tokens))
    return session.finish()


def _updates(session: Session, agent, model, completions: np.ndarray) -> None:
    work = session.work
    programs = {"latent": UpdateProgram(agent, work, "latent"), "token": UpdateProgram(agent, work, "token")}
    torch_update = TorchUpdate(model, work, completions)
    times = session.compare({**programs, "torch": torch_update}, settle=SETTLE).seconds
    session.add("update.torch_token.s", times["torch"], "s")
    trained = sum(p.numel() for p in torch_update.trainable)
    session.add_counted("update.torch_token.parameters", trained, "count", "trainable")
    for name in programs:
        session.add_ratio(
            f"update.{name}_over_torch", times[name], times["torch"], note="time over torch's token update"
        )


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__))
