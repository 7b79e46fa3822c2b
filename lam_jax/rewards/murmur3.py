"""MurmurHash3, the 32-bit variant for x86 (Austin Appleby, public domain): a hash of text that is the same everywhere.

Python's own hash of a string differs from process to process.
"""

import functools

MASK = 0xFFFFFFFF


def _rotate(x: int, by: int) -> int:
    return (x << by | x >> (32 - by)) & MASK


def _scramble(block: int) -> int:
    return _rotate(block * 0xCC9E2D51 & MASK, 15) * 0x1B873593 & MASK


@functools.lru_cache(maxsize=2**16)
def murmur3(data: bytes, seed: int = 0) -> int:
    """Hash between 0 and 2^32 - 1. The last 65,536 are kept: texts repeat their words."""
    h, whole = seed, len(data) // 4 * 4
    for start in range(0, whole, 4):
        h ^= _scramble(int.from_bytes(data[start : start + 4], "little"))
        h = (_rotate(h, 13) * 5 + 0xE6546B64) & MASK
    h ^= _scramble(int.from_bytes(data[whole:], "little"))  # 0 if nothing is left
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & MASK
    return h ^ h >> 16
