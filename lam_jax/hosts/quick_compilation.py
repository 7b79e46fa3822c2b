"""Compiling in about half the time, for runs of minutes on a CPU: the demo, and smoke runs of other recipes.

LLVM's first level of optimisation and, in jax 0.10, XLA's older emitter of fusions take .55 of the time in XLA. Steps
take .81 to 1.21 times as long (`python -m benchmarks.compile_time`), so longer runs keep what XLA does by itself. Last
digits differ between the two.
"""

import os
from collections.abc import MutableMapping
from importlib.metadata import version

from lam_jax.hosts.platforms import runs_on_cpu
from lam_jax.parallel.xla_flags import add_flag

FLAGS = {"xla_backend_optimization_level": "1"}
# jax 0.12's XLA has this name in it, and aborts where it is a flag.
OLDER_FLAGS = {"xla_cpu_use_fusion_emitters": "false"}


def compile_quickly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets XLA_FLAGS where programs can only run on a CPU; what they say already stays.

    Has to come before jax has found its devices.
    """
    if not runs_on_cpu():
        return
    flags = environment.get("XLA_FLAGS", "")
    for name, value in (FLAGS | (OLDER_FLAGS if version("jaxlib").startswith("0.10.") else {})).items():
        flags = add_flag(flags, name, value)
    environment["XLA_FLAGS"] = flags
