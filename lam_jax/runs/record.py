"""The JSON record of a checkpoint: what was saved, sealed with a hash of its own."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from lam_jax.errors import CheckpointMismatchError, DamagedCheckpointError
from lam_jax.parallel.rules import canonical_spec

FORMAT = 2


class Stored(NamedTuple):
    """What a checkpoint's record says about one array.

    Attributes:
        shape, dtype: of the array; of the key data for a random key.
        key: name of the PRNG of a random key, else empty.
        checksum: hash of the content, see `lam_jax.parallel.checksum`.
        spec: mesh axes of each dimension where it was sharded by name, else None.
    """

    shape: tuple[int, ...]
    dtype: str
    key: str
    checksum: str
    spec: list[list[str]] | None

    def sharding(self, mesh: Mesh) -> NamedSharding:
        """The sharding that it was saved with, on `mesh`; dimensions that do not divide there are replicated."""
        parts: list[tuple[str, ...] | None] = []
        for size, axes in zip(self.shape, self.spec or [[]] * len(self.shape), strict=True):
            present = tuple(axis for axis in axes if axis in mesh.shape)
            shards = 1
            for axis in present:
                shards *= mesh.shape[axis]
            parts.append(present if present and size % shards == 0 else None)
        return NamedSharding(mesh, canonical_spec(parts))


def spec_of(leaf: Any) -> list[list[str]] | None:
    """Mesh axes of each dimension of a jax array that is sharded by name; None for others."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return None
    parts = (*sharding.spec, *[None] * (leaf.ndim - len(sharding.spec)))
    return [[] if part is None else [part] if isinstance(part, str) else list(part) for part in parts]


def make_record(metadata: dict[str, Any], arrays: dict[str, Stored]) -> dict[str, Any]:
    """The sealed record.

    Raises:
        TypeError: `metadata` is not made of JSON values.
    """
    record = {"format": FORMAT, "metadata": metadata, "arrays": {n: a._asdict() for n, a in arrays.items()}}
    record = json.loads(json.dumps(record))  # what will be read back: tuples become lists
    return {**record, "sha256": seal(record)}


def seal(record: dict[str, Any]) -> str:
    """Hash of a record without its seal."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def record_file(path: Path) -> Path:
    """The file that holds the record of a checkpoint, sealed."""
    return Path(path) / "record" / "metadata"


def read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint: "metadata" as saved, and "arrays", each the fields of a `Stored`, by name.

    Raises:
        DamagedCheckpointError: missing, unreadable or altered.
        CheckpointMismatchError: written in another format.
    """
    file = record_file(path)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found = record.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise damaged(path, f"its record {file.name} cannot be read: {error}") from error
    if found != seal(record):
        raise damaged(path, "its record differs from what was saved")
    if record["format"] != FORMAT:
        raise CheckpointMismatchError(
            f"{path}: found checkpoint format {record['format']}, expected {FORMAT}. It was written by another version "
            "of lam_jax: use that one, or another output folder."
        )
    return record


def damaged(path: Path, why: str) -> DamagedCheckpointError:
    """The error for a checkpoint that cannot be used."""
    return DamagedCheckpointError(f"{path}: damaged checkpoint: {why}.")
