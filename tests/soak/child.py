"""A run that is killed: `python -m tests.soak.child FOLDER`. It prints "at N" after each update that it has begun.

Two stages: plain steps, and rollouts of two updates each. A checkpoint is written every third update. One process takes
one device; several (see `lam_jax.parallel.processes`) share a mesh of all their devices.
"""

import sys
import time
from pathlib import Path

import jax

from lam_jax.errors import LamJaxError
from lam_jax.hosts.consistency import code_hash, require_consistent, require_consistent_weights
from lam_jax.parallel import make_mesh
from lam_jax.parallel.processes import start
from lam_jax.runs.run import Run
from lam_jax.train.loop import Phase, fit
from tests.train.made_phase import STEPS, TwoUpdates, evaluate, gradient_step, new_data, new_state

# Arrays of 64 KB: large enough for a limit on the size of files to hit checkpoints and not the logs.
WIDTH = 128
PACE = 0.004  # seconds a step, so that a signal can fall at any of them
STAGES = {"plain": gradient_step, "rollouts": TwoUpdates()}
UPDATES = 3 * STEPS


def announced(work):
    """The work, which says when each update begins."""
    begun = [0 if work is gradient_step else STEPS]

    def say():
        begun[0] += 1
        print(f"at {begun[0]}", flush=True)
        time.sleep(PACE)

    def step(state, batch):
        say()
        return gradient_step(state, batch)

    class Announced(TwoUpdates):
        def apply(self, state, buffer, index):
            say()
            return super().apply(state, buffer, index)

    return step if work is gradient_step else Announced()


def run(folder: Path) -> None:
    start()
    devices = jax.device_count()
    mesh = make_mesh((2, devices // 2, 1)) if devices > 1 else None
    require_consistent({"code": code_hash()})
    with Run(folder, {"devices": devices}, save_every=3) as opened:
        weights = new_state(0, WIDTH, mesh).trainable
        for number, (name, work) in enumerate(STAGES.items()):

            def train(name=name, work=work, number=number, weights=weights):
                state = new_state(number, WIDTH, mesh).replace(trainable=weights)
                phase = Phase(name, STEPS, evaluate=evaluate, evaluate_every=4, keep_best=True)
                fitted = fit(phase, state, announced(work), new_data(WIDTH, mesh), opened.tools(name))
                return fitted.state.trainable, {}

            weights = opened.phase(name, train, like=weights).tree
        require_consistent_weights(weights)


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]))
    except LamJaxError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
