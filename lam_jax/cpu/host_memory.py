"""Memory that programs on CPU devices use one after the other."""

import ctypes

import jax

# glibc's names for mallopt, and its largest value.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1


def keep_host_memory() -> bool:
    """Keeps what a program on CPU devices frees for the next one; returns whether it could.

    XLA's CPU backend asks for a program's scratch at each call. glibc maps a block of that size from the kernel and
    gives it back when it is freed, so that each call faults in every page anew: 140 thousand faults and a tenth of the
    time of a latent update at `mid`. Kept, the process stays at its peak size. Only the main thread's heap can hold
    such blocks, so programs then run on the thread that calls them; those for several devices do not, and gain nothing.

    Call it on the main thread, after `processes.start` and before jax is used otherwise. Beside an accelerator it only
    makes programs on the host's CPU run so; with another C library than glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # read when the backend is made, which the next line does
    if jax.default_backend() != "cpu":
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, LARGEST)])
