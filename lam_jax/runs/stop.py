"""Requests to stop: SIGTERM, and the preemption notice of a cluster, which arrives as SIGTERM too."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

from lam_jax.errors import PreemptedError


class StopRequest:
    """Whether the run was asked to stop, as a context manager that listens for SIGTERM.

    With several processes jax's preemption service listens instead: a signal to any of them stops all at the same
    visit. So every process has to visit equally often.
    """

    def __init__(self):
        self._asked = False
        self._deferred = False
        self._visits = 0
        self._previous: Any = None
        self._listening = False

    def __enter__(self) -> "StopRequest":
        # jax's service has a handler of its own, which one of Python's would replace.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
            self._listening = True
        return self

    def __exit__(self, *_: Any) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, self._previous)
            self._listening = False

    def _on_signal(self, *_: Any) -> None:
        self._asked = True
        if not self._deferred:
            raise PreemptedError("Stopped by SIGTERM between two checkpoints. Run the same command again to go on.")

    def defer(self, on: bool) -> None:
        """From now on a signal is only noted for the next visit (True), or ends the run at once (False)."""
        self._deferred = on

    def visit(self) -> bool:
        """Whether to save and stop now; the answer is the same on every process."""
        self._visits += 1
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(self._visits)
        return self._asked
