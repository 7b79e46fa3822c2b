"""XLA_FLAGS of processes with several CPU devices."""

from lam_jax.parallel.patience import patient


def flags(devices: int) -> str:
    """For `devices` devices that wait for each other on a busy machine."""
    return patient(f"--xla_force_host_platform_device_count={devices}")
