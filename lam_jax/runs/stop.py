"""Requests to stop: SIGTERM, which is also a cluster's preemption notice, and Ctrl-C."""

import os
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

from lam_jax.errors import InterruptedRunError, PreemptedError

NOTICE = b"\nCtrl-C: the run saves at its next step and ends. Press Ctrl-C again to end it at once.\n"
AT_ONCE = "Ended at once by a second Ctrl-C. Run the same command again: it goes on from the last checkpoint."


class _Stopped(BaseException):
    """What a signal raises at once. No Exception: those are often taken for damage of what was read, or of a reward."""


class StopRequest:
    """Whether the run was asked to stop, as a context manager that listens for SIGTERM and Ctrl-C (SIGINT).

    The first Ctrl-C does what SIGTERM does, a second one ends the run at once.

    With several processes jax's preemption service listens for SIGTERM instead: a signal to any of them stops all at
    the same visit. So every process has to visit equally often.
    """

    def __init__(self):
        self._asked = False
        self._deferred = False
        self._interrupts = 0
        self._visits = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        # jax's service has a handler of its own, which one of Python's would replace.
        if jax.process_count() == 1:
            self._listen(signal.SIGTERM, self._terminated)
        # A shell starts what runs in its background with SIGINT ignored, so that Ctrl-C goes to the foreground alone.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._listen(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        """Raises PreemptedError or InterruptedRunError in the place of what a signal raised."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if isinstance(error, _Stopped):
            raise self.error("between two checkpoints. Run the same command again to go on.") from None

    def _listen(self, number: int, handler: Any) -> None:
        self._previous[number] = signal.signal(number, handler)

    def _terminated(self, *_: Any) -> None:
        self._asked = True
        if not self._deferred:
            raise _Stopped

    def _interrupted(self, *_: Any) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt(AT_ONCE)
        if jax.process_count() > 1:
            os.write(2, NOTICE)
            os.kill(os.getpid(), signal.SIGTERM)  # tells the others too
            return
        if self._deferred:
            # Not through the console, which this signal may have found in the middle of a line.
            os.write(2, NOTICE)
        self._terminated()

    def defer(self, on: bool) -> None:
        """From now on a signal is only noted for the next visit (True), or ends the run at once (False)."""
        self._deferred = on

    def visit(self) -> bool:
        """Whether to save and stop now; the answer is the same on every process."""
        self._visits += 1
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(self._visits)
        return self._asked

    def error(self, where: str) -> PreemptedError:
        """What to raise when the run stops; `where` says where that is, and how to go on."""
        if self._interrupts:
            return InterruptedRunError(f"Stopped by Ctrl-C {where}")
        return PreemptedError(f"Stopped by SIGTERM {where}")
