"""What a training loop is given by the run that it is part of."""

import dataclasses

from lam_jax.runs.metrics import MetricsWriter
from lam_jax.runs.phase_checkpoint import PhaseSaver
from lam_jax.runs.profiler import Profiler
from lam_jax.runs.progress import Progress


@dataclasses.dataclass(frozen=True)
class Tools:
    """Where a loop reports and what keeps it safe; `Run.tools` makes them for a phase.

    Attributes:
        writer: gets the records.
        progress: shows the loop.
        saver: saves checkpoints on the way; if it finds one, the phase goes on from there.
        profiler: traces some steps.
    """

    writer: MetricsWriter
    progress: Progress
    saver: PhaseSaver | None = None
    profiler: Profiler | None = None
