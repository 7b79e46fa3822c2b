"""XLA_FLAGS with a flag more, where the installed jaxlib knows it."""

import mmap
from pathlib import Path

import jaxlib


def add_flag(flags: str, name: str, value: str) -> str:
    """The flags with `--name=value`; a value that they name already stays.

    They have to be in the environment before jax has found its devices. XLA aborts a process whose flags it does not
    know, so the flag is left out if the installed jaxlib has none of this name.
    """
    if name in flags or not _is_known(name):
        return flags
    return f"{flags} --{name}={value}".lstrip()


def _is_known(name: str) -> bool:
    return any(_holds(library, name.encode()) for library in Path(jaxlib.__path__[0]).glob("*.so"))


def _holds(file: Path, text: bytes) -> bool:
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0
