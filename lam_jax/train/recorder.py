"""The metrics of a phase, checked, logged and shown one step late, and its evaluations."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lam_jax.errors import NonFiniteError
from lam_jax.parallel.parked import OnHost
from lam_jax.runs.metrics import MetricsWriter
from lam_jax.runs.phase_checkpoint import Best
from lam_jax.runs.progress import Bar
from lam_jax.train.state import TrainState

Evaluate = Callable[[TrainState], Mapping[str, Any]]
# These follow from the others: when several metrics go non-finite in one step, they are not the one that went first.
CONSEQUENCES = ("loss", "grad_norm", "update_norm")
SHOWN = ("loss", "reward", "score")


def first_non_finite(metrics: Mapping[str, float]) -> str | None:
    """Name of the metric that went non-finite first: a term of the loss, before the loss, before its gradient."""
    names = [name for name, value in metrics.items() if not math.isfinite(value)]
    return min(names, key=lambda n: CONSEQUENCES.index(n) + 1 if n in CONSEQUENCES else 0, default=None)


class Recorder:
    """Waits for a step's metrics when the next one runs already: the loop never waits for a transfer.

    Args:
        phase: name in the records.
        is_logged: whether a step of this number gets a record; every step is checked.
        writer, bar: where records go, and where some of their values are shown.
        best: of the evaluations so far.
        keep_best: a copy of the weights is kept with the best score, on the host.
    """

    def __init__(
        self,
        phase: str,
        is_logged: Callable[[int], bool],
        writer: MetricsWriter,
        bar: Bar,
        best: Best | None = None,
        keep_best: bool = False,
    ):
        self.phase, self.is_logged, self.writer, self.bar = phase, is_logged, writer, bar
        self.best, self.keep_best = best, keep_best
        self.history: list[dict[str, Any]] = []
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._last_time = time.monotonic()

    def step(self, number: int, metrics: Mapping[str, Any]) -> None:
        """Metrics of step `number`, which may still be running."""
        self.flush()
        self._pending = number, metrics

    def flush(self) -> None:
        """Waits for the newest step."""
        if self._pending is None:
            return
        (number, metrics), self._pending = self._pending, None
        scalars = self.checked(number, metrics)
        now = time.monotonic()
        step_s, self._last_time = now - self._last_time, now
        if self.is_logged(number):
            self.history.append(self.writer.write(self.phase, number, scalars | {"step_s": step_s}))
        self.bar.update(number, {name: scalars[name] for name in SHOWN if name in scalars})

    def checked(self, number: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The metrics on the host.

        Raises:
            NonFiniteError: one of them is infinite or NaN.
        """
        scalars = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        name = first_non_finite(scalars)
        if name is not None:
            others = ", ".join(f"{key}={value:.6g}" for key, value in scalars.items())
            raise NonFiniteError(
                f"Phase {self.phase}, step {number}: {name} is {scalars[name]}, and it went first. The step's metrics: "
                f"{others}. Look at that step's batch, lower the learning rate or the clip norm; it resumes from its "
                "last checkpoint."
            )
        return scalars

    def evaluate(self, number: int, state: TrainState, evaluate: Evaluate) -> None:
        """Scores `state` after step `number`."""
        self.flush()
        began = time.monotonic()
        scalars = self.checked(number, evaluate(state))
        if "score" not in scalars:
            raise ValueError(f"Phase {self.phase}: evaluation gave {sorted(scalars)}, expected a 'score' among them.")
        record = {f"eval_{name}": value for name, value in scalars.items()} | {"eval_s": time.monotonic() - began}
        self.history.append(self.writer.write(self.phase, number, record))
        if self.best is None or scalars["score"] > self.best.score:
            kept = OnHost(state.trainable) if self.keep_best else None
            self.best = Best(number, scalars["score"], kept)
        self._last_time = time.monotonic()
