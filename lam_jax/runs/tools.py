"""What a training loop is given by the run that it is part of."""

import dataclasses
from typing import Protocol, runtime_checkable

from lam_jax.runs.metrics import MetricsWriter
from lam_jax.runs.phase_checkpoint import PhaseSaver
from lam_jax.runs.profiler import Profiler
from lam_jax.runs.progress import Progress


@runtime_checkable
class StepLog(Protocol):
    """Something written at each step, beside the metrics, that a resumed run must not write twice."""

    def begin(self, phase: str, step: int | None) -> None:
        """`phase` starts anew (None), or goes on after `step`, the last whose batch was prepared: what follows goes."""
        ...


@dataclasses.dataclass(frozen=True)
class Tools:
    """Where a loop reports and what keeps it safe; `Run.tools` makes them for a phase.

    Attributes:
        writer: gets the records.
        progress: shows the loop.
        saver: saves checkpoints on the way; if it finds one, the phase goes on from there.
        profiler: traces some steps.
        logs: are told where the loop begins.
    """

    writer: MetricsWriter
    progress: Progress
    saver: PhaseSaver | None = None
    profiler: Profiler | None = None
    logs: tuple[StepLog, ...] = ()
