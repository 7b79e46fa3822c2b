"""Weights from checkpoint files straight onto a mesh, in chunks: each process reads only the slices that it owns.

A stacked weight is a buffer on the devices that is filled in place, layer by layer and rows by rows; what the host
holds beyond the devices' shards is one chunk.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lam_jax.formats import backbone_names as names
from lam_jax.formats.checkpoint_files import SafetensorsFolder, TensorSource
from lam_jax.formats.hf_config import read_config
from lam_jax.formats.matching import Filling, Matching, check_tied, match
from lam_jax.formats.safetensors_io import row_chunks
from lam_jax.models.backbone import Backbone
from lam_jax.models.families import spec_of
from lam_jax.nn.weight import is_weight
from lam_jax.parallel import Rules
from lam_jax.parallel.rules import weight_spec

T = TypeVar("T")
log = logging.getLogger(__name__)
SMALL_BYTES = 32 * 2**20  # weights up to this size, over all devices of the process, are not streamed


def load_backbone(folder: str | Path, mesh: Mesh, rules: Rules, dtype: Any = None) -> Backbone:
    """A backbone from a Hugging Face folder, sharded over `mesh` by `rules`.

    Args:
        folder: config.json and model.safetensors, or shards with their index.
        mesh: from `make_mesh`.
        rules: TRAIN or ROLLOUT.
        dtype: of the weights; default: that of the specs (float32 master weights), whatever the files hold.

    Raises:
        FileNotFoundError: no config.json or no folder.
        ValueError: wrong architecture, a file that is damaged or a pickle (CheckpointError), or keys that do not fit.
    """
    config = read_config(folder)
    source = SafetensorsFolder(folder)
    specs = spec_of(config)
    matching = match(names.backbone(config), specs, source, config.vision, config.text.tied)
    check_tied(source, matching)
    for name in (*matching.aliases, *matching.skipped):
        log.info("%s: skipped %s (a tied head or a buffer that the config determines)", source.file_of(name), name)
    return load_weights(specs, matching, source, mesh, rules, dtype)


def load_weights(specs: T, matching: Matching, source: TensorSource, mesh: Mesh, rules: Rules, dtype: Any = None) -> T:
    """Arrays in the place of `specs`, read from the tensors that `matching` names."""

    def load(path, weight):
        filling = matching.fillings[jax.tree_util.keystr(path, simple=True, separator=".")]
        spec = weight_spec(weight, mesh, rules)
        return _fill(filling, source, mesh, spec, np.dtype(weight.dtype if dtype is None else dtype))

    return jax.tree_util.tree_map_with_path(load, specs, is_leaf=is_weight)


def _fill(filling: Filling, source: TensorSource, mesh: Mesh, spec: PartitionSpec, dtype: np.dtype) -> jax.Array:
    entry, shape = filling.entry, filling.weight.shape
    parts: tuple[Any, ...] = (*spec, *[None] * (len(shape) - len(spec)))
    stacked, flipped = bool(entry.layers), entry.layout != "same"
    if stacked and parts[0] is not None:
        raise ValueError(f"{entry.path}: the layers axis is sharded over {parts[0]}, but layers are loaded one by one.")
    sharding = NamedSharding(mesh, spec)
    local, devices = sharding.shard_shape(shape), len(sharding.addressable_devices)
    if int(np.prod(local)) * dtype.itemsize * devices <= SMALL_BYTES:
        return jax.make_array_from_callback(shape, sharding, lambda index: _assemble(filling, source, index, dtype))
    # From here on in the files' layout: [out, in] where we hold [in, out].
    turn = slice(None, None, -1) if flipped else slice(None)
    file_shape, file_local, file_parts = ((*sizes[stacked:],)[turn] for sizes in (shape, local, parts))
    file_spec = PartitionSpec(*file_parts)
    row_bytes = int(np.prod(file_local[1:])) * filling.dtype.itemsize * devices
    buffer = _empty(shape, dtype, sharding)()
    for layer, name in enumerate(filling.names):
        for rows in row_chunks(file_local[0], row_bytes):
            piece = _piece(source, name, file_shape, file_local[0], rows, NamedSharding(mesh, file_spec))
            at = (np.int32(layer), np.int32(rows.start))
            buffer = _write(buffer, piece, *at, mesh, spec, file_spec, stacked, flipped)
            # Dispatch is asynchronous: without waiting, chunks would pile up on the host.
            jax.block_until_ready(buffer)
    return buffer


def _assemble(filling: Filling, source: TensorSource, index, dtype: np.dtype) -> np.ndarray:
    """A device's whole shard of a small weight, put together on the host: no program has to be compiled for it."""
    stacked, flipped = bool(filling.entry.layers), filling.entry.layout != "same"
    rest = index[1:] if stacked else index
    rest = rest[::-1] if flipped else rest
    pieces = [_read(source, name, rest).astype(dtype) for name in filling.names]
    pieces = [piece.T if flipped else piece for piece in pieces]
    return np.stack(pieces) if stacked else pieces[0]


def _read(source: TensorSource, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """A slice of a tensor; the patch embedding's [D, C, T, h, w] counts as [D, C*T*h*w]."""
    if len(source.tensors[name].shape) == len(index):
        return source.read(name, index)
    rows = source.read(name, index[:1])
    return rows.reshape(rows.shape[0], -1)[:, index[1]]


def _piece(
    source: TensorSource, name: str, shape: tuple[int, ...], local_rows: int, rows: slice, sharding: NamedSharding
) -> jax.Array:
    """`rows` of every device's own rows of a tensor, as one array whose shards are the devices' chunks."""
    count = rows.stop - rows.start
    shards = shape[0] // local_rows
    read: dict[tuple, np.ndarray] = {}  # devices that hold the same slice share one read

    def chunk(index):
        start = (index[0].start or 0) // count * local_rows + rows.start
        key = (start, *((part.start, part.stop) for part in index[1:]))
        if key not in read:
            read[key] = _read(source, name, (slice(start, start + count), *index[1:]))
        return read[key]

    return jax.make_array_from_callback((count * shards, *shape[1:]), sharding, chunk)


@functools.cache
def _empty(shape: tuple[int, ...], dtype: np.dtype, sharding: NamedSharding) -> Callable[[], jax.Array]:
    """A program that makes a buffer on the devices; cached, because every jit of a new lambda compiles again."""
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(4, 5, 6, 7, 8))
def _write(
    buffer: jax.Array,
    piece: jax.Array,
    layer: jax.Array | np.int32,
    row: jax.Array | np.int32,
    mesh: Mesh,
    spec: PartitionSpec,
    piece_spec: PartitionSpec,
    stacked: bool,
    flipped: bool,
) -> jax.Array:
    """Writes each device's chunk into its own shard of `buffer`, in place."""

    def write(buffer, piece, layer, row):
        piece = piece.astype(buffer.dtype)
        start = [row, *[np.int32(0)] * (piece.ndim - 1)]
        if flipped:
            piece, start = piece.T, start[::-1]
        if stacked:
            piece, start = piece[None], [layer, *start]
        return jax.lax.dynamic_update_slice(buffer, piece, start)

    none = PartitionSpec()
    return jax.shard_map(write, mesh=mesh, in_specs=(spec, piece_spec, none, none), out_specs=spec)(
        buffer, piece, layer, row
    )
