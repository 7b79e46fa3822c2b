"""Content hash of an array that does not depend on how the array is sharded.

Orbax notices missing and truncated files, but not a flipped bit in array data. Each element's bits and its index are
mixed to 64 bits (splitmix64, a bijection in the bits: one changed element always changes the hash) and summed modulo
2^64. Sums of shards add up to the sum of the array: a process hashes only the shards it holds, and a checkpoint can be
verified on another mesh than it was saved from.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Elements hashed at a time: bounds the temporary memory to a few MB.
CHUNK = 1 << 20


def _mix(bits: np.ndarray, index: np.ndarray) -> np.uint64:
    x = bits + (index + np.uint64(1)) * GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.add.reduce(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def _shard_sum(data: np.ndarray, starts: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Sum over one shard that begins at `starts` of an array of `shape`."""
    # Row-major position of every element in the whole array, built by broadcasting one vector per dimension.
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    bits = np.ascontiguousarray(data).reshape(data.shape).view(f"u{data.dtype.itemsize}")
    rows = max(1, CHUNK // max(1, math.prod(data.shape[1:])))
    total = 0
    for first in range(0, max(1, len(data) if data.ndim else 1), rows):
        part = bits[first : first + rows] if data.ndim else bits
        index = np.zeros((1,) * data.ndim, np.uint64)
        for axis, stride in enumerate(strides):
            start = starts[axis] + (first if axis == 0 else 0)
            line = (np.arange(start, start + part.shape[axis], dtype=np.uint64)) * np.uint64(stride)
            index = index + line.reshape([-1 if a == axis else 1 for a in range(data.ndim)])
        total += int(_mix(part.astype(np.uint64).ravel(), np.broadcast_to(index, part.shape).ravel()))
    return total


def _local_sum(array: Any) -> int:
    if not isinstance(array, jax.Array):
        data = np.asarray(array)
        return _shard_sum(data, (0,) * data.ndim, data.shape)
    total = 0
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            starts = tuple(part.indices(size)[0] for part, size in zip(shard.index, array.shape, strict=True))
            total += _shard_sum(np.asarray(shard.data), starts, array.shape)
    return total


def checksums(arrays: dict[str, Any]) -> dict[str, str]:
    """Hash of each array (jax or NumPy, no key arrays) as 16 hexadecimal digits.

    With several processes every process must call it, with the same names.
    """
    sums = [_local_sum(array) % 2**64 for array in arrays.values()]
    if jax.process_count() > 1:
        # Halves travel as uint32: without x64 mode jax would cut 64-bit integers.
        halves = np.array([[s >> 32, s & 0xFFFFFFFF] for s in sums], np.uint32)
        gathered = np.asarray(multihost_utils.process_allgather(halves))
        sums = [sum((int(high) << 32) + int(low) for high, low in gathered[:, i]) % 2**64 for i in range(len(sums))]
    return {name: f"{value:016x}" for name, value in zip(arrays, sums, strict=True)}
