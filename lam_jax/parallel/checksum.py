"""Content hash of an array that does not depend on how the array is sharded.

Orbax notices missing and truncated files, but not a flipped bit in array data. Each element's bits and its index are
mixed to 64 bits (splitmix64, a bijection in the bits: one changed element always changes the hash) and summed modulo
2^64. Every process hashes the shards that it holds, and the hashes of the shards add up to that of the array: a
checkpoint can be verified on another mesh than it was saved from.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.parallel.multihost import gather, is_first

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Elements hashed at a time: bounds the temporary memory of a thread to a few tens of MB.
CHUNK = 1 << 20
THREADS = min(32, os.cpu_count() or 1)


def _mix(bits: np.ndarray, index: np.ndarray) -> np.uint64:
    x = bits + (index + np.uint64(1)) * GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.add.reduce(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def _part_sum(bits: np.ndarray, first: int, starts: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Sum over some rows, from row `first`, of a shard that begins at `starts` of an array of `shape`."""
    # Row-major position of every element in the whole array, built by broadcasting one vector per dimension.
    index = np.zeros((1,) * bits.ndim, np.uint64)
    for axis, size in enumerate(bits.shape):
        start = starts[axis] + (first if axis == 0 else 0)
        line = np.arange(start, start + size, dtype=np.uint64) * np.uint64(math.prod(shape[axis + 1 :]))
        index = index + line.reshape([-1 if a == axis else 1 for a in range(bits.ndim)])
    return int(_mix(bits.astype(np.uint64).ravel(), np.broadcast_to(index, bits.shape).ravel()))


Part = tuple[np.ndarray, int, tuple[int, ...], tuple[int, ...]]  # the arguments of `_part_sum`


def _rows_of(data: np.ndarray, starts: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[Part]:
    """A shard in pieces of CHUNK elements."""
    bits = np.ascontiguousarray(data).reshape(data.shape).view(f"u{data.dtype.itemsize}")
    if not data.ndim:
        yield bits, 0, starts, shape
        return
    rows = max(1, CHUNK // max(1, math.prod(data.shape[1:])))
    for first in range(0, len(bits), rows):
        yield bits[first : first + rows], first, starts, shape


def _parts(array: Any) -> Iterator[Part]:
    """What this process has to hash: each shard once, host arrays by process 0."""
    if isinstance(array, jax.Array) and not (array.is_fully_addressable and jax.process_count() > 1):
        shards = [(s.index, np.asarray(s.data)) for s in array.addressable_shards if s.replica_id == 0]
    else:
        array = np.asarray(array)
        shards = [((slice(None),) * array.ndim, array)] if is_first() else []
    for index, data in shards:
        starts = tuple(part.indices(size)[0] for part, size in zip(index, array.shape, strict=True))
        yield from _rows_of(data, starts, array.shape)


def checksums(arrays: dict[str, Any]) -> dict[str, str]:
    """Hash of each array (jax or NumPy, no key arrays) as 16 hexadecimal digits.

    With several processes every process must call it, with the same names.
    """
    with ThreadPoolExecutor(THREADS) as pool:  # NumPy lets go of the interpreter's lock while it computes
        running = [[pool.submit(_part_sum, *part) for part in _parts(array)] for array in arrays.values()]
        sums = [sum(part.result() for part in parts) % 2**64 for parts in running]
    # Halves travel as uint32: without x64 mode jax would cut 64-bit integers.
    halves = gather(np.array([[s >> 32, s & 0xFFFFFFFF] for s in sums], np.uint32).reshape(-1, 2))
    totals = [sum((int(high) << 32) + int(low) for high, low in halves[:, i]) % 2**64 for i in range(len(sums))]
    return {name: f"{value:016x}" for name, value in zip(arrays, totals, strict=True)}


def shard_hashes(array: Any) -> dict[int, int]:
    """Hash of every distinct shard that this process holds, copies of other processes' shards too.

    Returns:
        64-bit hash by number of the shard: where it begins, counted in elements of the whole array modulo 2^32.
    """
    array = array if isinstance(array, jax.Array) else np.asarray(array)
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    held = [(s.index, s.data) for s in array.addressable_shards] if isinstance(array, jax.Array) else []
    found: dict[int, int] = {}
    for index, data in held or [((slice(None),) * array.ndim, array)]:
        starts = tuple(part.indices(size)[0] for part, size in zip(index, array.shape, strict=True))
        place = sum(s * math.prod(array.shape[axis + 1 :]) for axis, s in enumerate(starts)) % 2**32
        if place not in found:
            parts = _rows_of(np.asarray(data), starts, array.shape)
            found[place] = sum(_part_sum(*part) for part in parts) % 2**64
    return found
