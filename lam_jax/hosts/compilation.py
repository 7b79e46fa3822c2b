"""What compilation costs, how often it happens, and the cache that saves it."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

logger = logging.getLogger("lam_jax")

# One event for every program that is asked for and not in memory, read from the persistent cache or compiled.
PROGRAM_EVENT = "/jax/core/compile/backend_compile_duration"
COMPILE_EVENTS = (PROGRAM_EVENT, "/jax/core/compile/jaxpr_to_mlir_module_duration")


NOTICED = 1.0  # seconds of compilation in a step; a rarely needed helper takes less


class CompileClock:
    """Adds up programs and seconds that XLA compiles while it is open (reading the compilation cache counts too)."""

    def __init__(self):
        self.programs = 0
        self.seconds = 0.0

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.programs += event == PROGRAM_EVENT
        if event in COMPILE_EVENTS:
            self.seconds += duration_secs

    def __enter__(self) -> "CompileClock":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


@contextlib.contextmanager
def warn_of_recompilation(what: str, least: float = NOTICED) -> Iterator[CompileClock]:
    """Logs a warning if `least` seconds or more are compiled inside, which a warmed-up step should not do."""
    with CompileClock() as clock:
        yield clock
    if clock.programs and clock.seconds >= least:
        logger.warning(
            "%s it compiled %d program(s) in %.1f s after warm-up: a shape, dtype or placement changed. Use fewer "
            "length buckets, or compile all of them ahead.",
            what,
            clock.programs,
            clock.seconds,
        )


def keep_compiled_programs() -> Path | None:
    """Turns on JAX's persistent compilation cache, and returns its folder.

    The folder is `JAX_COMPILATION_CACHE_DIR` where that is set, else `lam_jax` in the user's cache folder. It serves
    within one run too: a program that is needed again after its function was made anew is read instead of compiled.
    Where there is no such folder (a container without HOME, a user without an entry, a disk that cannot be written),
    a warning says so, and None is returned: every process compiles what it needs.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    try:
        folder = _user_cache() / "lam_jax" / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        # The rights in a folder's mode do not tell: root may not write on a read-only disk, nor on many network ones.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no HOME, and no entry for this user's number
        logger.warning(
            "Compiled programs are not kept, so each start compiles them again: %s. Set JAX_COMPILATION_CACHE_DIR to a "
            "folder that can be written.",
            str(error).rstrip("."),
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


def _user_cache() -> Path:
    """The user's cache folder.

    Raises:
        RuntimeError: nobody knows where the user's files lie.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # others are to be passed over, says the standard that this name comes from
        return Path(named)
    home = Path.home()
    if not home.is_absolute():
        raise RuntimeError(f"the home folder is {str(home)!r}, which is no absolute path")
    return home / ".cache"
