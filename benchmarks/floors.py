"""What the hardware allows: read bandwidth and matmul peak, both measured in this process."""

import concurrent.futures
import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.records import usable_cores

ATTEMPTS = 10
CACHES_READ = 8  # the array that is reduced, in multiples of the last-level cache
DEVICE_READ = 2**33  # bytes that an accelerator sums up: starting the program must not count
CHAINED = 8  # products of one program, likewise
FALLBACK_CACHE = 64 * 2**20  # where the system does not tell
MATMUL = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Best of several attempts."""

    bytes_per_s: float  # read
    flops_per_s: float  # matmul, in `dtype`
    dtype: str

    def best(self, other: "Peaks") -> "Peaks":
        """The stricter floors of two measurements, one before and one after."""
        return dataclasses.replace(
            self,
            bytes_per_s=max(self.bytes_per_s, other.bytes_per_s),
            flops_per_s=max(self.flops_per_s, other.flops_per_s),
        )


def last_level_cache() -> int:
    """Bytes of the largest cache of the first core, or a fallback."""
    sizes = [_bytes(path.read_text()) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(sizes, default=FALLBACK_CACHE)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+)([KMG]?)\s*", text)
    if match is None:
        raise ValueError(f"Cache size {text!r} is not a number with K, M or G.")
    return int(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]]


def measure_peaks(dtype: str = "float32") -> Peaks:
    """Read bandwidth and matmul peak of the default device."""
    platform = jax.devices()[0].platform
    if platform == "cpu":
        reads = read_bandwidth_of_host(CACHES_READ * last_level_cache())
    else:
        reads = read_bandwidth_of_device(DEVICE_READ)
    return Peaks(reads, matmul_peak(MATMUL.get(platform, 4096), dtype), dtype)


def read_bandwidth_of_host(size: int) -> float:
    """Bytes/s of a maximum over `size` bytes, a part for each core (NumPy lets go of the interpreter lock)."""
    cores = usable_cores()
    parts = np.array_split(np.ones(size // 4, np.float32), cores)
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        return sum(p.nbytes for p in parts) / _fastest(lambda: list(pool.map(np.max, parts)))


def read_bandwidth_of_device(size: int) -> float:
    """Bytes/s of a sum over `size` bytes."""
    x = jnp.ones(size // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    return x.nbytes / _fastest(lambda: total(x).block_until_ready())


def matmul_peak(side: int, dtype: str) -> float:
    """FLOP/s of a square matrix product."""
    # Not ones: an H100 multiplies those faster than real numbers. Scaled, so that products of products stay finite.
    a = jax.random.normal(jax.random.key(0), (side, side), dtype) / side**0.5
    count = 1 if jax.default_backend() == "cpu" else CHAINED

    @jax.jit
    def chain(a: jax.Array) -> jax.Array:
        y = a
        for _ in range(count):
            y = y @ a
        return y

    return count * 2 * side**3 / _fastest(lambda: chain(a).block_until_ready())


def _fastest(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
