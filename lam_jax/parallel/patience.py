"""The time-out of collectives between the CPU devices of one process, for busy machines.

XLA aborts the process when a device has waited for another one for 40 s, also if that one is late and not stuck.
"""

import mmap
from pathlib import Path

import jaxlib

SECONDS = 600
TERMINATE = "xla_cpu_collective_call_terminate_timeout_seconds"


def patient(flags: str, name: str = TERMINATE) -> str:
    """XLA_FLAGS that let a device wait for SECONDS; a time-out that they name already stays.

    They have to be in the environment before jax has found its devices. XLA aborts a process whose flags it does not
    know, so the flag is left out if the installed jaxlib has none of this name.
    """
    if name in flags or not _is_known(name):
        return flags
    return f"{flags} --{name}={SECONDS}".lstrip()


def _is_known(name: str) -> bool:
    return any(_holds(library, name.encode()) for library in Path(jaxlib.__path__[0]).glob("*.so"))


def _holds(file: Path, text: bytes) -> bool:
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0
