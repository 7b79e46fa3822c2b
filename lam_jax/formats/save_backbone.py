"""A backbone written as a Hugging Face folder, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lam_jax.formats import backbone_names as names
from lam_jax.formats.atomic import whole
from lam_jax.formats.checkpoint_files import INDEX, SINGLE
from lam_jax.formats.families import format_of
from lam_jax.formats.foreign import over
from lam_jax.formats.matching import file_shape, weights_by_path
from lam_jax.formats.names import Entry
from lam_jax.formats.safetensors_io import header_text, row_chunks, write
from lam_jax.models.backbone import Backbone
from lam_jax.models.config import BackboneConfig, VisionSizes
from lam_jax.models.families import spec_of

# One layer of the weight at a path: (path, layer index or None) -> array in our layout.
ReadLayer = Callable[[str, int | None], np.ndarray]
Plan = dict[str, tuple[Entry, int | None, np.dtype, tuple[int, ...]]]


def save_backbone(
    model: Backbone,
    folder: str | Path,
    *,
    dtype: Any = None,
    files: Mapping[str, str | Path] | None = None,
    max_shard_bytes: int = 5 * 10**9,
    base: Mapping[str, Any] | None = None,
) -> None:
    """Writes a Hugging Face folder with the published tensor names, which `load_backbone` and transformers read.

    Every process has to call it; process 0 writes. The folder appears only when it is complete.

    Args:
        model: the backbone, sharded or not.
        folder: must not exist yet.
        dtype: to store (float32, float16 or bfloat16); default: the arrays' own.
        files: further files of the folder, name -> path to copy (tokenizer.json, ...).
        max_shard_bytes: above this size the weights are split into shards with an index.
        base: contents of the config.json that the model came with: what it holds of keys that are not ours is kept.

    Raises:
        FileExistsError: `folder` is there already.
    """
    leaves = weights_by_path(model)
    stored = {path: np.dtype(leaf.dtype if dtype is None else dtype) for path, leaf in leaves.items()}
    plan = plan_tensors(names.backbone(model.config), spec_of(model.config), stored, model.config.vision)
    published = format_of(model.config).published
    plan = {published(name): part for name, part in plan.items()}

    def read(path: str, layer: int | None) -> np.ndarray:
        return fetch(leaves[path] if layer is None else leaves[path][layer]).astype(stored[path], copy=False)

    if jax.process_index() != 0:
        for entry, layer, _, _ in plan.values():  # the gathers are collective
            read(entry.path, layer)
        return
    write_backbone_folder(folder, model.config, plan, read, files or {}, max_shard_bytes, base)


def fetch(array: jax.Array | np.ndarray) -> np.ndarray:
    """The whole of a (possibly sharded) array on every host; collective where other processes hold parts of it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def plan_tensors(entries: Sequence[Entry], specs: Any, dtypes: Mapping[str, np.dtype], vision: VisionSizes) -> Plan:
    """Tensor name -> (entry, layer, dtype, shape in the file), in the order of the names table."""
    weights = weights_by_path(specs)
    plan: Plan = {}
    for entry in entries:
        shape = file_shape(entry, weights[entry.path], vision)
        for layer, name in enumerate(entry.names()):
            plan[name] = (entry, layer if entry.layers else None, dtypes[entry.path], shape)
    return plan


def to_file_layout(array: np.ndarray, entry: Entry, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Chunks of a tensor of `shape` in the file, from our layout; inverse of what loading does."""
    flat = array if entry.layout == "same" else array.T
    for rows in row_chunks(flat.shape[0], flat.nbytes // max(1, flat.shape[0])):
        yield np.ascontiguousarray(flat[rows]).reshape(-1, *shape[1:])


def write_backbone_folder(
    folder: str | Path,
    config: BackboneConfig,
    plan: Plan,
    read: ReadLayer,
    files: Mapping[str, str | Path],
    max_shard_bytes: int,
    base: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json, the shards (with an index if there are several) and copies of `files`."""
    dtype = max((part[2] for part in plan.values()), key=lambda d: d.itemsize)
    groups = _split(plan, max_shard_bytes)
    with whole(folder) as partial:
        partial.mkdir()
        for name, path in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, partial / name)
        (partial / "config.json").write_text(json.dumps(over(base, config, dtype.name), indent=2) + "\n")
        weight_map: dict[str, str] = {}
        for number, group in enumerate(groups, 1):
            shard = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
            weight_map |= dict.fromkeys(group, shard)
            header = header_text({name: plan[name][2:] for name in group}, {"format": "pt"})

            def chunks(name: str) -> Iterator[np.ndarray]:
                entry, layer, _, shape = plan[name]
                return to_file_layout(read(entry.path, layer), entry, shape)

            write(partial / shard, header, chunks)
        if len(groups) > 1:
            total = sum(int(np.prod(shape)) * dtype.itemsize for _, _, dtype, shape in plan.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _split(plan: Plan, limit: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, (_, _, dtype, shape) in plan.items():
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if groups[-1] and size + nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += nbytes
    return groups
