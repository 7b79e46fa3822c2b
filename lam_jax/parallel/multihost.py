"""What the processes of one run tell each other on the host: small values, barriers, arrays that no one holds whole.

With one process each function is the identity. With several, all of them must call it, in the same order.
"""

import json
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process writes what is written once: metrics, records, the console."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather(values: np.ndarray) -> np.ndarray:
    """`values` of every process, stacked on a new leading axis [processes, ...]; 32-bit or smaller types."""
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values))


def gather_json(value: Any) -> list[Any]:
    """The JSON value of every process, in order."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = gather(np.asarray(len(data), np.int32))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(data)] = data
    return [json.loads(row[:length].tobytes()) for row, length in zip(gather(padded), lengths)]


def all_agree(ok: bool) -> bool:
    """Whether `ok` is true on every process."""
    return bool(gather(np.asarray(ok)).all())


def from_first(value: int) -> int:
    """The number that process 0 gives, below 2^31."""
    return int(gather(np.asarray(value, np.int32))[0])


def to_host(tree: T) -> T:
    """Every array of a tree as a NumPy array, gathered from the processes where none holds it whole."""

    def fetch(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(jax.tree.map(fetch, tree))
