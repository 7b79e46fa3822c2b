"""Time-out and threads of the collectives between the CPU devices of one process, for busy machines.

XLA aborts the process when a device has waited for another one for 40 s, also if that one is late and not stuck.
Devices really do get stuck when threads run out: XLA starts a thread a device, a thread that waits in a collective does
nothing else, and a device may wait in collectives of several mesh axes at once. Seen with 8 threads: 7 devices in one
collective, and the 8th thread in another, waiting for a device that had none left.
"""

import re
from collections.abc import Mapping

from lam_jax.parallel.xla_flags import add_flag

SECONDS = 600
TERMINATE = "xla_cpu_collective_call_terminate_timeout_seconds"
THREADS = "PJRT_NPROC"  # how many XLA's CPU client starts, if that is more than there are devices
THREADS_PER_DEVICE = 4
DEVICES = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def patient_environment(environment: Mapping[str, str], several_processes: bool = False) -> dict[str, str]:
    """The time-out and, where XLA_FLAGS ask for several CPU devices, the threads; what is set already stays.

    Several processes keep the threads that they have: gloo, through which their devices talk, takes collectives in the
    order in which they come, and more threads may start them in another order on each process. (Seen once; whether it
    was the threads or programs read back from the compilation cache, which `processes.start` ends, is not known.)

    Empty unless there may be several CPU devices. jax reads both when its devices are first asked for.
    """
    flags = environment.get("XLA_FLAGS", "")
    devices = DEVICES.search(flags)
    if devices is None and environment.get("JAX_PLATFORMS") != "cpu":
        return {}
    found = {"XLA_FLAGS": add_flag(flags, TERMINATE, str(SECONDS))}
    if devices is not None and int(devices[1]) > 1 and THREADS not in environment and not several_processes:
        found[THREADS] = str(THREADS_PER_DEVICE * int(devices[1]))
    return found
