"""A trace of a few steps of one phase, for TensorBoard (`tensorboard --logdir`) and for Perfetto (ui.perfetto.dev)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax


class Profiler:
    """Traces steps of `phase` into `folder`; every process writes a trace of its own.

    Args:
        folder: gets plugins/profile/TIME/ with HOST.xplane.pb for TensorBoard and perfetto_trace.json.gz.
        phase: which; None: nothing is traced.
        skip: steps to leave out at first, in which programs are compiled.
        steps: steps to trace.
    """

    def __init__(self, folder: Path, phase: str | None, skip: int = 2, steps: int = 3):
        if skip < 0 or steps < 1:
            raise ValueError(f"Profiler: found skip={skip} and steps={steps}, expected at least 0 and 1.")
        self.folder, self.phase, self.skip, self.steps = Path(folder), phase, skip, steps
        self._seen = 0

    @contextlib.contextmanager
    def step(self, phase: str, number: int) -> Iterator[None]:
        """Around one step of a phase."""
        if phase != self.phase:
            yield
            return
        self._seen += 1
        if self._seen == self.skip + 1:
            jax.profiler.start_trace(str(self.folder), create_perfetto_trace=True)
        with jax.profiler.StepTraceAnnotation(phase, step_num=number):
            yield
        if self._seen == self.skip + self.steps:
            self.close()

    def close(self) -> None:
        """Ends a trace that is open, for example because the phase was shorter."""
        if self.skip < self._seen <= self.skip + self.steps:
            jax.profiler.stop_trace()
            self._seen = self.skip + self.steps + 1
