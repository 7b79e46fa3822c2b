"""A phase that trains in milliseconds: a one-layer regression, drawn noise, a loader, evaluations."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lam_jax.data.loader import Loader, LoaderConfig, Placed
from lam_jax.parallel import TRAIN
from lam_jax.parallel.rows import from_own_rows, own_rows
from lam_jax.runs.metrics import MetricsWriter
from lam_jax.runs.phase_checkpoint import PhaseSaver
from lam_jax.runs.profiler import Profiler
from lam_jax.runs.progress import Progress
from lam_jax.runs.stop import StopRequest
from lam_jax.runs.tools import Tools
from lam_jax.train.loop import Fitted, Phase, fit
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.state import TrainState

WIDTH, ROWS, STEPS = 16, 4, 12
OPTIMISER = make_optimiser(OptimiserConfig(0.05, "cosine"), 2 * STEPS)


@jax.jit
def gradient_step(state: TrainState, rows: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    """Noise from the state's key, so that a step that is done twice or left out shows."""
    noisy = rows + 0.1 * jax.random.normal(state.step_key(), rows.shape)
    loss, gradients = jax.value_and_grad(lambda t: jnp.mean(jnp.square(noisy @ t["w"] - rows)))(state.trainable)
    state, metrics = state.apply_gradients(gradients, OPTIMISER)
    return state, {"loss": loss, **metrics}


class TwoUpdates:
    """A `Work` like a rollout: what is drawn once is used for two updates."""

    updates = 2

    def prepare(self, state, batch):
        buffer = self._rollout(state, batch)
        return buffer, {"drawn": float(jnp.sum(buffer["rows"]))}

    def buffer_like(self, state, batch):
        return jax.eval_shape(self._rollout, state, batch)

    @staticmethod
    @jax.jit
    def _rollout(state, batch):
        return {"rows": batch @ state.trainable["w"] + batch, "missing": None}

    def apply(self, state, buffer, index):
        return gradient_step(state, buffer["rows"] * (1.0 + index))

    def finish(self, state, buffer, metrics):
        return metrics


class StopAt(StopRequest):
    """Asks to stop at a visit."""

    def __init__(self, visit: int):
        super().__init__()
        self.left = visit

    def visit(self) -> bool:
        self.left -= 1
        return self.left == 0


def new_state(seed: int = 0, width: int = WIDTH, mesh: Mesh | None = None) -> TrainState:
    """Weights sharded over `fsdp` where there is a mesh."""
    weights = 0.1 * jax.random.normal(jax.random.key(seed), (width, width))
    if mesh is not None:
        host = np.asarray(weights)
        weights = jax.make_array_from_callback(
            host.shape, NamedSharding(mesh, PartitionSpec("fsdp")), lambda index: host[index]
        )
    return TrainState.create({"w": weights, "frozen": None}, OPTIMISER, jax.random.key(seed + 1))


def new_data(width: int = WIDTH, mesh: Mesh | None = None) -> Any:
    """Batches of ROWS rows; where there is a mesh each process makes its own rows."""
    rows = list(np.random.default_rng(0).normal(size=(10, width)).astype(np.float32))
    if mesh is None:
        return Loader(rows, np.stack, LoaderConfig(ROWS, seed=1))
    own = own_rows(mesh, TRAIN, ROWS)
    loader = Loader(rows, np.stack, LoaderConfig(ROWS, seed=1, rows=own))
    return Placed(loader, lambda local: from_own_rows(local, own, ROWS, mesh, TRAIN))


def evaluate(state: TrainState) -> dict[str, Any]:
    """The best weights are not the last ones."""
    return {"score": -abs(float(state.step) - STEPS / 2), "trace": jnp.trace(state.trainable["w"])}


def train(
    folder: Path,
    *,
    every: int,
    step: Any = gradient_step,
    stop: StopRequest | None = None,
    profiler: Profiler | None = None,
    keep_best: bool = True,
) -> Fitted:
    """The phase, in a folder where it may have been begun before."""
    saver = PhaseSaver(folder / "phase_checkpoints", every, stop=stop)
    phase = Phase("phase", STEPS, evaluate=evaluate, evaluate_every=4, keep_best=keep_best)
    with MetricsWriter(folder) as writer:
        return fit(phase, new_state(), step, new_data(), Tools(writer, Progress(enabled=False), saver, profiler))
