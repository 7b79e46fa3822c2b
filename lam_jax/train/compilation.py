"""What compilation costs, and the cache that saves it."""

import os
from pathlib import Path
from typing import Any

import jax

COMPILE_EVENTS = ("/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")


class CompileClock:
    """Adds up the seconds that XLA compiles while it is open (reading the compilation cache counts too)."""

    def __init__(self):
        self.seconds = 0.0

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in COMPILE_EVENTS:
            self.seconds += duration_secs

    def __enter__(self) -> "CompileClock":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


def keep_compiled_programs() -> Path:
    """Turns on JAX's persistent compilation cache, and returns its folder.

    The folder is `JAX_COMPILATION_CACHE_DIR` where that is set, else `lam_jax` in the user's cache folder. It serves
    within one run too: a program that is needed again after its function was made anew is read instead of compiled.
    """
    if jax.config.jax_compilation_cache_dir is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "lam_jax" / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return Path(jax.config.jax_compilation_cache_dir)
