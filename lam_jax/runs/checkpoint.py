"""Checkpoints: a pytree and a JSON record, written by Orbax as one atomic folder and verified when restored.

The tree is stored as a flat mapping from dotted path to array, so that a checkpoint can be read, checked and compared
without the classes that made it. A content hash per array (`lam_jax.parallel.checksum`) finds what Orbax does not: a
flipped bit. Every process writes and reads its own shards; the folder must be one that all of them see.
"""

import logging
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, Sharding

from lam_jax.errors import CheckpointMismatchError, DamagedCheckpointError
from lam_jax.nn.weight import path_name
from lam_jax.parallel.checksum import checksums
from lam_jax.parallel.multihost import all_agree, barrier, is_first
from lam_jax.runs.disk import SaidOnce, is_no_space, no_space, require_space
from lam_jax.runs.record import Stored, damaged, make_record, read_record, spec_of

T = TypeVar("T")
TEMPORARY = ".orbax-checkpoint-tmp"
DELETING = ".deleting"
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(SaidOnce())


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _flatten(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _data(leaf: Any) -> Any:
    """The array that is written for a leaf."""
    array = jax.random.key_data(leaf) if is_key(leaf) else leaf
    # With several processes an array that each holds for itself is written by the first, as host arrays are.
    whole = isinstance(array, jax.Array) and array.is_fully_addressable and jax.process_count() > 1
    return array if isinstance(array, jax.Array) and not whole else np.asarray(array)


class BackgroundSave:
    """A save whose arrays were copied to the host and are being written; made by `begin_save`."""

    def __init__(self, path: Path, checkpointer: ocp.AsyncCheckpointer):
        self.path = path
        self._checkpointer = checkpointer

    def wait(self) -> None:
        """Returns when the checkpoint is there.

        Raises:
            NoSpaceError: the disk is full; nothing is left behind.
        """
        try:
            self._checkpointer.close()
        except BaseException as error:
            raise _failed(self.path, error) from error


def begin_save(path: Path, tree: Any, metadata: dict[str, Any] | None = None) -> BackgroundSave:
    """Starts to write `tree` and `metadata` (JSON values) to the folder `path`, which appears when all is written.

    Returns when the arrays may change again.

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
    if is_first():
        remove_unfinished(path.parent, path.name)
    require_space(path, sum(array.nbytes for array in arrays.values()))
    hashes = checksums(arrays)
    stored = {
        name: Stored(
            tuple(array.shape),
            array.dtype.name,
            str(jax.random.key_impl(leaves[name])) if is_key(leaves[name]) else "",
            hashes[name],
            spec_of(leaves[name]),
        )
        for name, array in arrays.items()
    }
    # Orbax refuses empty arrays; their record is enough to make them again.
    written = {name: array for name, array in arrays.items() if array.size}
    items: dict[str, Any] = {"arrays": ocp.args.PyTreeSave(written)} if written else {}
    items["record"] = ocp.args.JsonSave(make_record(metadata or {}, stored))
    barrier(f"save {path.name}")  # none may begin to write while the first still tidies up
    checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    try:
        checkpointer.save(path, args=ocp.args.Composite(**items))
    except BaseException as error:
        raise _failed(path, error) from error
    return BackgroundSave(path, checkpointer)


def save_checkpoint(path: Path, tree: Any, metadata: dict[str, Any] | None = None) -> None:
    """Like `begin_save`, and waits; after a crash the folder is there whole or not at all."""
    begin_save(path, tree, metadata).wait()


def _failed(path: Path, error: BaseException) -> BaseException:
    """Tidies up; the error to raise."""
    if is_first():
        remove_unfinished(path.parent, path.name)
    return no_space(path, f"writing failed: {error}") if is_no_space(error) else error


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Deletes what an interrupted save or deletion of `name` left in `folder`."""
    for ending in (f"{TEMPORARY}*", DELETING):
        for leftover in folder.glob(name + ending):
            shutil.rmtree(leftover, ignore_errors=True)


def delete_checkpoint(path: Path) -> None:
    """Deletes a checkpoint; what is left if the process is killed meanwhile does not look like one."""
    going = path.with_name(path.name + DELETING)
    path.rename(going)
    shutil.rmtree(going)


def restore_checkpoint(path: Path, like: T, mesh: Mesh | None = None) -> tuple[T, dict[str, Any]]:
    """Reads a checkpoint onto the structure, dtypes and shardings of `like`.

    Args:
        path: folder that `save_checkpoint` wrote.
        like: arrays or `jax.ShapeDtypeStruct`s. NumPy arrays and Python numbers come back as such, arrays that were
            bound to no device stay so.
        mesh: where structs without a sharding go if they were sharded when saved, and as they were; without a mesh they
            are bound to no device.

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
    placed = {name: _sharding(wanted[name], entry, mesh) for name, entry in stored.items()}
    structs = {
        name: jax.ShapeDtypeStruct(tuple(entry.shape), jnp.dtype(entry.dtype), sharding=placed[name])
        for name, entry in stored.items()
    }
    arrays = _read_arrays(path, {name: struct for name, struct in structs.items() if struct.size})
    for name, struct in structs.items():
        if not struct.size:
            arrays[name] = np.zeros(struct.shape, struct.dtype)
    found = checksums({name: arrays[name] for name in stored})
    changed = [name for name, entry in stored.items() if entry.checksum != found[name]]
    if changed:
        raise damaged(path, f"the content of {len(changed)} of {len(stored)} arrays changed, first {changed[0]!r}")
    leaves = [_leaf(arrays[name], stored[name], leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), record["metadata"]


def _read_arrays(path: Path, structs: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """The arrays; as NumPy arrays where no sharding is asked for."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(
        {name: struct for name, struct in structs.items() if struct.sharding is not None}
    )
    restore_args |= {n: ocp.RestoreArgs(restore_type=np.ndarray) for n, s in structs.items() if s.sharding is None}
    arrays, failure = {}, None
    try:
        if structs:
            args = ocp.args.PyTreeRestore(structs, restore_args={name: restore_args[name] for name in structs})
            # Not through a Checkpointer: at its barrier the others would wait for a process that found damage.
            handler = ocp.PyTreeCheckpointHandler()
            arrays = dict(handler.restore(path / "arrays", args=args))  # pyright: ignore[reportArgumentType]
    except Exception as error:
        # Running out of memory says nothing about the file.
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise
        failure = error
    if not all_agree(failure is None):
        reason = "another process could not read its part" if failure is None else repr(str(failure)[:200])
        raise damaged(path, f"its arrays cannot be read: {reason}") from failure
    return arrays


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


def _sharding(leaf: Any, entry: Stored, mesh: Mesh | None) -> Sharding | None:
    """Where an array has to go; None for one that is bound to no device."""
    if _on_host(leaf):
        return None
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return None if mesh is None or entry.spec is None else entry.sharding(mesh)
    if not getattr(leaf, "committed", True):
        return None
    # Raises here, before reading, when the shape does not divide over the mesh.
    sharding.shard_shape(tuple(entry.shape))
    return sharding


def _leaf(array: Any, entry: Stored, like: Any) -> Any:
    if isinstance(like, bool | int | float):
        return type(like)(array.item())
    if _on_host(like):
        return array
    array = jnp.asarray(array)
    return jax.random.wrap_key_data(array, impl=entry.key) if entry.key else array
