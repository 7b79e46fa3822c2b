"""The environment of processes with CPU devices of their own number, whatever the tests themselves run with."""

from lam_jax.parallel.patience import THREADS, THREADS_PER_DEVICE, patient


def several_devices(devices: int, more: str = "", processes: int = 1) -> dict[str, str]:
    """For `devices` devices of each process that wait for each other on a busy machine; `more` flags of XLA."""
    flags = patient(f"{more} --xla_force_host_platform_device_count={devices}".lstrip())
    return {"XLA_FLAGS": flags, THREADS: str((THREADS_PER_DEVICE if processes == 1 else 1) * devices)}
