"""Checkpoints: a pytree and a JSON record, written by Orbax as one atomic folder and verified when restored.

The tree is stored as a flat mapping from dotted path to array, so that a checkpoint can be read, checked and compared
without the classes that made it. A content hash per array (`lam_jax.train.checksum`) finds what Orbax does not: a
flipped bit.
"""

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lam_jax.train.checksum import checksums
from lam_jax.train.errors import CheckpointMismatchError, DamagedCheckpointError, NoSpaceError
from lam_jax.train.partition import path_name

T = TypeVar("T")
FORMAT = 1
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_SPACE_WORDS = ("No space left", "Disk quota exceeded", "File too large")


class Stored(NamedTuple):
    """What a checkpoint's record says about one array; `key` names the PRNG of a random key, else it is empty."""

    shape: tuple[int, ...]
    dtype: str
    key: str
    checksum: str


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _flatten(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _data(leaf: Any) -> Any:
    """The array that is written for a leaf."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _seal(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler())


def save_checkpoint(path: Path, tree: Any, metadata: dict[str, Any] | None = None) -> None:
    """Writes `tree` and `metadata` (JSON values) to the folder `path`; after a crash it is there whole or not at all.

    Raises:
        FileExistsError: `path` exists.
        NoSpaceError: the disk is full; nothing is left behind.
    """
    path = Path(path).absolute()
    if path.exists():
        raise FileExistsError(f"{path}: found a checkpoint, expected none. Save under another name or delete it first.")
    leaves = _flatten(tree)
    arrays = {name: _data(leaf) for name, leaf in leaves.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent, path.name)
    _require_space(path, sum(array.nbytes for array in arrays.values()))
    # With several processes this is also the point that all must reach before one of them begins to write.
    hashes = checksums(arrays)
    record = {
        "format": FORMAT,
        "metadata": metadata or {},
        "arrays": {
            name: Stored(
                tuple(array.shape),
                array.dtype.name,
                str(jax.random.key_impl(leaves[name])) if is_key(leaves[name]) else "",
                hashes[name],
            )._asdict()
            for name, array in arrays.items()
        },
    }
    record = json.loads(json.dumps(record))  # what will be read back: tuples become lists
    # Orbax refuses empty arrays; their record is enough to make them again.
    written = {name: array for name, array in arrays.items() if array.size}
    items: dict[str, Any] = {"arrays": ocp.args.PyTreeSave(written)} if written else {}
    items["record"] = ocp.args.JsonSave({**record, "sha256": _seal(record)})
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path, args=ocp.args.Composite(**items))
    except BaseException as error:
        remove_unfinished(path.parent, path.name)
        if is_no_space(error):
            raise _no_space(path, f"writing failed: {error}") from error
        raise


def is_no_space(error: BaseException) -> bool:
    """Whether an error of the file system or of tensorstore means that the disk or the quota is full."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(words in str(error) for words in NO_SPACE_WORDS)


def _no_space(path: Path, found: str) -> NoSpaceError:
    return NoSpaceError(
        f"{path}: no space for this checkpoint ({found}). Nothing half-written was left, earlier checkpoints are "
        "intact. Free space on that disk, then run the same command again: it goes on from the last checkpoint."
    )


def _require_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise _no_space(path, f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Deletes what an interrupted save of `name` left in `folder`."""
    for leftover in folder.glob(f"{name}.orbax-checkpoint-tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)


def read_record(path: Path) -> dict[str, Any]:
    """The JSON record of a checkpoint: "metadata" as saved, and "arrays" with shape, dtype and hash by name.

    Raises:
        DamagedCheckpointError: missing, unreadable or altered.
    """
    file = Path(path) / "record" / "metadata"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        seal = record.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, f"its record {file.name} cannot be read: {error}") from error
    if seal != _seal(record):
        raise _damaged(path, "its record differs from what was saved")
    if record["format"] != FORMAT:
        raise CheckpointMismatchError(f"{path}: found checkpoint format {record['format']}, expected {FORMAT}.")
    return record


def _damaged(path: Path, why: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{path}: damaged checkpoint: {why}.")


def restore_checkpoint(path: Path, like: T) -> tuple[T, dict[str, Any]]:
    """Reads a checkpoint onto the structure, dtypes and shardings of `like`.

    Args:
        path: folder that `save_checkpoint` wrote.
        like: arrays or `jax.ShapeDtypeStruct`s (with shardings, else the first device is used). NumPy arrays and Python
            numbers come back as such.

    Returns:
        The tree and the metadata.

    Raises:
        DamagedCheckpointError: incomplete, unreadable, or its content is not what was saved.
        CheckpointMismatchError: sound, but its arrays are not those of `like`.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise DamagedCheckpointError(f"{path}: no such checkpoint.")
    record = read_record(path)
    stored = {name: Stored(**fields) for name, fields in record["arrays"].items()}
    wanted = _flatten(like)
    _require_match(path, stored, wanted)
    structs = {
        name: jax.ShapeDtypeStruct(entry.shape, jnp.dtype(entry.dtype), sharding=_sharding(wanted[name], entry))
        for name, entry in stored.items()
    }
    present = {name: struct for name, struct in structs.items() if struct.size}
    on_host = {name for name in present if _on_host(wanted[name])}
    arrays = _read_arrays(path, present, on_host) if present else {}
    for name, struct in structs.items():
        if not struct.size:
            arrays[name] = np.zeros(struct.shape, struct.dtype) if _on_host(wanted[name]) else jnp.zeros_like(struct)
    found = checksums({name: arrays[name] for name in stored})
    changed = [name for name, entry in stored.items() if entry.checksum != found[name]]
    if changed:
        raise _damaged(path, f"the content of {len(changed)} of {len(stored)} arrays changed, first {changed[0]!r}")
    leaves = [_leaf(arrays[name], stored[name], leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), record["metadata"]


def _read_arrays(path: Path, structs: dict[str, jax.ShapeDtypeStruct], on_host: set[str]) -> dict[str, Any]:
    restore_args = ocp.checkpoint_utils.construct_restore_args(structs)
    restore_args |= {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in on_host}
    try:
        with _checkpointer() as checkpointer:
            composite = ocp.args.Composite(arrays=ocp.args.PyTreeRestore(structs, restore_args=restore_args))
            return checkpointer.restore(path, args=composite)["arrays"]
    except Exception as error:
        # Running out of memory says nothing about the file.
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise _damaged(path, f"its arrays cannot be read: {str(error)[:200]!r}") from error


def _shape_and_dtype(leaf: Any) -> tuple[tuple[int, ...], str]:
    if is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return tuple(data.shape), data.dtype.name
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return tuple(array.shape), array.dtype.name


def _require_match(path: Path, stored: dict[str, Stored], wanted: dict[str, Any]) -> None:
    problems = [f"{name}: missing in the checkpoint" for name in wanted if name not in stored]
    problems += [f"{name}: not part of the model" for name in stored if name not in wanted]
    for name, entry in stored.items():
        if name in wanted:
            expected = _shape_and_dtype(wanted[name])
            if (tuple(entry.shape), entry.dtype) != expected:
                found = f"{entry.dtype}{list(entry.shape)}"
                problems.append(f"{name}: found {found}, expected {expected[1]}{list(expected[0])}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointMismatchError(
            f"{path}: the checkpoint does not fit: {'; '.join(problems[:3])}{more}. "
            "It was made with another preset or version: use that one, or another output folder."
        )


def _on_host(leaf: Any) -> bool:
    """Whether a leaf is NumPy's or Python's: as a jax array its 64 bits would be cut to 32."""
    return isinstance(leaf, np.ndarray | np.generic | bool | int | float)


def _sharding(leaf: Any, entry: Stored) -> jax.sharding.Sharding:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])
    # Raises here, before reading, when the shape does not divide over the mesh.
    sharding.shard_shape(tuple(entry.shape))
    return sharding


def _leaf(array: Any, entry: Stored, like: Any) -> Any:
    if isinstance(like, bool | int | float):
        return type(like)(array.item())
    if _on_host(like):
        return array
    if not getattr(like, "committed", getattr(like, "sharding", None) is not None):
        # An array bound to no device must come back as such, or it could not meet arrays on a mesh under jit.
        array = jnp.asarray(np.asarray(array))
    if entry.key:
        return jax.random.wrap_key_data(array, impl=entry.key)
    return array
