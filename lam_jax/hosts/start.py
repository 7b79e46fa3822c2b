"""What a program that trains does before anything else."""

import functools
import os

from lam_jax.cpu.host_memory import keep_host_memory
from lam_jax.hosts.compilation import keep_compiled_programs
from lam_jax.hosts.platforms import leave_absent_devices_out
from lam_jax.parallel.patience import patient_environment
from lam_jax.parallel.processes import Place, find_place, start


@functools.cache
def start_process() -> Place | None:
    """Joins the other processes of the run, turns the compilation cache on, and keeps host memory between programs.

    Only the first call does anything. It has to come before jax is used otherwise.

    Raises:
        StartUpError: see `lam_jax.parallel.processes.start`.
    """
    leave_absent_devices_out()
    os.environ.update(patient_environment(os.environ, find_place(os.environ) is not None))
    place = start()
    keep_compiled_programs()
    keep_host_memory()
    return place
