"""Requests and tokens a minute: calls wait for their turn."""

import collections
import threading
import time
from collections.abc import Callable

MINUTE = 60.0


class RateLimit:
    """Lets calls through so that no 60 seconds hold more requests or tokens than allowed; one for all threads.

    Args:
        requests: a minute; None: any number.
        tokens: a minute; None: any number.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        requests: float | None,
        tokens: float | None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._requests, self._tokens = requests, tokens
        self._clock = clock
        self._sent: collections.deque[tuple[float, int]] = collections.deque()
        self._lock = threading.Lock()
        self._paused_until = 0.0

    def pause(self, seconds: float) -> None:
        """No call for so long: the service said so."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def wait(self, tokens: int, stop: threading.Event) -> None:
        """Waits until a call of about so many tokens may go, and counts it; or until `stop`."""
        while not stop.is_set() and (pause := self._take(tokens)) > 0:
            stop.wait(pause)

    def _take(self, tokens: int) -> float:
        """0 if the call may go now, and is counted; else seconds to wait before asking again."""
        with self._lock:
            now = self._clock()
            if now < self._paused_until:
                return self._paused_until - now
            if self._requests is None and self._tokens is None:
                return 0.0
            while self._sent and self._sent[0][0] <= now - MINUTE:
                self._sent.popleft()
            # A limit below one request a minute, or a call above the limit of tokens, goes alone.
            full = self._requests is not None and len(self._sent) + 1 > max(1.0, self._requests)
            heavy = self._tokens is not None and sum(sent for _, sent in self._sent) + tokens > self._tokens
            if self._sent and (full or heavy):
                return self._sent[0][0] + MINUTE - now
            self._sent.append((now, tokens))
            return 0.0
