"""What a training process tells its watchdog: that it lives, in which phase and at which step.

The watchdog names the file in the environment; without one nothing is written. See `lam_jax.hosts.watchdog`.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

FILE = "LAM_JAX_HEARTBEAT"
# Seconds between two writes within a phase: a heartbeat must not cost more than the step that it reports.
INTERVAL = 1.0


class _Last:
    """What was written last by this process."""

    phase = ""
    when = 0.0


def beat(phase: str, step: int = 0, state: str = "running") -> None:
    """Says that `phase` has come to `step`."""
    file = os.environ.get(FILE)
    now = time.time()
    if not file or (phase == _Last.phase and now - _Last.when < INTERVAL):
        return
    _Last.phase, _Last.when = phase, now
    write(Path(file), {"pid": os.getpid(), "phase": phase, "step": step, "state": state, "time": now})


def write(path: Path, content: dict[str, Any]) -> None:
    """Replaces a heartbeat file atomically."""
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps(content), encoding="utf-8")
    new.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """The content of a heartbeat file; None if there is none yet."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
