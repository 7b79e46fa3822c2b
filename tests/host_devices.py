"""The environment of processes with CPU devices of their own number, whatever the tests themselves run with."""

from lam_jax.parallel.patience import SECONDS, TERMINATE, THREADS, THREADS_PER_DEVICE
from lam_jax.parallel.xla_flags import add_flag


def several_devices(devices: int, more: str = "", processes: int = 1) -> dict[str, str]:
    """For `devices` devices of each process that wait for each other on a busy machine; `more` flags of XLA."""
    flags = add_flag(f"{more} --xla_force_host_platform_device_count={devices}".lstrip(), TERMINATE, str(SECONDS))
    return {"XLA_FLAGS": flags, THREADS: str((THREADS_PER_DEVICE if processes == 1 else 1) * devices)}
