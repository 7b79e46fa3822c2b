"""Numbers of a server in Prometheus' text format."""

import threading
from collections.abc import Mapping
from pathlib import Path

_HELP = {
    "requests_total": ("counter", "Requests to /v1/chat/completions by the status that they were answered with."),
    "prompt_tokens_total": ("counter", "Tokens of prompts that were read."),
    "completion_tokens_total": ("counter", "Tokens of answers."),
    "request_seconds_sum": ("counter", "Seconds of requests that were answered."),
    "first_token_seconds_sum": ("counter", "Seconds from a request's arrival to its first tokens."),
    "first_token_seconds_count": ("counter", "Requests that got a first token."),
    "segments_total": ("counter", "Segments of decode steps."),
    "segment_seconds_sum": ("counter", "Seconds of segments."),
    "cancelled_total": ("counter", "Requests whose client was gone before the answer."),
    "requests_open": ("gauge", "Requests that are read, wait or run."),
    "requests_waiting": ("gauge", "Requests with answers that no slot was free for."),
    "slots_busy": ("gauge", "Samples under way."),
    "slots": ("gauge", "Samples that can be under way."),
    "resident_bytes": ("gauge", "Memory of the process."),
}


class Counters:
    """Counts, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, str], float] = {}

    def add(self, name: str, value: float = 1, label: str = "") -> None:
        """Adds to a counter; `label` as Prometheus writes it, without braces."""
        with self._lock:
            self._values[name, label] = self._values.get((name, label), 0) + value

    def value(self, name: str, label: str = "") -> float:
        """What was counted."""
        with self._lock:
            return self._values.get((name, label), 0)

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of it, and what is measured now."""
        with self._lock:
            values = dict(self._values)
        values |= {(name, ""): value for name, value in gauges.items()}
        lines = []
        for name, (kind, says) in _HELP.items():
            lines += [f"# HELP lam_jax_{name} {says}", f"# TYPE lam_jax_{name} {kind}"]
            found = {label: value for (known, label), value in values.items() if known == name} or {"": 0}
            for label, value in sorted(found.items()):
                braces = f"{{{label}}}" if label else ""
                lines.append(f"lam_jax_{name}{braces} {value:.10g}")
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    found = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(found[0].split()[1]) * 1024 if found else 0
