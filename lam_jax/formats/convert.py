"""Checkpoints converted on disk, tensor by tensor: nothing is computed, bits are only rearranged.

A checkpoint that comes in is remembered (tensor names, shards, order, dtypes, metadata, other files), so that it can be
given back byte for byte.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lam_jax.formats import backbone_names as names
from lam_jax.formats.agent_folder import FILES, MANIFEST, WEIGHTS, Manifest, open_checkpoint
from lam_jax.formats.atomic import whole
from lam_jax.formats.backbone_names import canonical
from lam_jax.formats.checkpoint_files import (
    INDEX,
    PICKLE_SUFFIXES,
    NpzFile,
    SafetensorsFolder,
    TensorSource,
    open_tensors,
    pickle_files,
)
from lam_jax.formats.families import FORMATS, format_of
from lam_jax.formats.foreign import read_foreign
from lam_jax.formats.hf_config import from_hf, read_config
from lam_jax.formats.load_latent import (
    foreign_entries,
    has_latent,
    latent_config,
    match_released,
    released_plan,
    write_npz,
    write_released,
)
from lam_jax.formats.matching import HEAD, TABLE, Matching, check_tied, file_shape, weights_by_path
from lam_jax.formats.names import Entry
from lam_jax.formats.safetensors_io import PICKLE_ADVICE, CheckpointError, header_text, row_chunks, write
from lam_jax.formats.save_backbone import plan_tensors, to_file_layout, write_backbone_folder
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import spec_of

_SKIPPED = "skipped."  # before the names of tensors that no weight needs, in a checkpoint of ours
# Other pickles (optimizer.pt, training_args.bin, rng_state.pth) are left behind by training and never opened.
_WEIGHT_PICKLES = ("pytorch_model", "model", "consolidated")
MAX_SHARD_BYTES = 5 * 10**9


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        kind: from what to what.
        tensors: number of tensors converted.
        skipped: names of tensors (or "NAME: why") that no weight of the result holds.
    """

    kind: str
    tensors: int
    skipped: tuple[str, ...] = ()


def convert(source: str | Path, target: str | Path, config: BackboneConfig | None = None) -> Report:
    """Converts a foreign checkpoint into ours, or ours into a foreign one.

    A Hugging Face folder, or a state dict of the released code, becomes a folder of ours. A folder of ours becomes a
    state dict if `target` ends in .safetensors or .npz, else a Hugging Face folder; where ours came from the same kind,
    that checkpoint is given back byte for byte (an .npz file: array for array). Pickles that training left beside the
    weights are not taken along; the report names them.

    Args:
        source: folder or file.
        target: must not exist yet; it appears only when it is complete.
        config: the backbone's sizes, needed for a state dict file alone (a Hugging Face folder holds its own).

    Raises:
        FileNotFoundError: `source` is not there.
        FileExistsError: `target` is there already.
        CheckpointError: wrong architecture, pickle, damaged file or keys that do not fit; nothing is left at `target`.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: expected a checkpoint folder or a state dict file.")
    if (source / MANIFEST).is_file():
        return _export(source, target)
    return _import(source, target, config)


def read_any_config(path: str | Path) -> BackboneConfig:
    """The backbone's sizes from a `config.json`, or from one with text_config, vision_config and special_ids.

    Raises:
        CheckpointError: not such a file; the message names it.
    """
    try:
        values = json.loads(Path(path).read_text())
        if not isinstance(values, dict):
            raise TypeError(f"found {type(values).__name__}, expected an object")
        if "special_ids" not in values:
            return from_hf(values)
        tied, kind = bool(values["tie_word_embeddings"]), values.get("model_type", "qwen2_5_vl")
        return FORMATS[kind].config(
            values["text_config"], values["vision_config"], values["special_ids"], tied, "float32"
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not the config of a model ({error}).") from error


def _import(path: Path, target: Path, config: BackboneConfig | None) -> Report:
    if path.is_dir() and (pickles := [name for name in pickle_files(path) if name.startswith(_WEIGHT_PICKLES)]):
        raise CheckpointError(
            f"{path}: found the pickle files {pickles}, expected none that could be weights: of two copies it is not "
            f"known which is meant. Move them away. {PICKLE_ADVICE}"
        )
    if config is None and path.is_dir():
        config = read_config(path)
    tensors = open_tensors(path)
    if config is None:
        raise CheckpointError(
            f"{path}: a state dict does not tell heads and special ids: name a preset or a config.json."
        )
    folder = path.is_dir()
    latent = latent_config(tensors) if has_latent(tensors) or not folder else None
    manifest = Manifest(config, latent, _remember(tensors, folder))
    matching = match_released(manifest, tensors)
    check_tied(tensors, matching)
    plan: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        key: (filling.dtype, filling.weight.shape) for key, filling in matching.fillings.items()
    }
    plan |= {_SKIPPED + name: (tensors.tensors[name].dtype, tensors.tensors[name].shape) for name in matching.skipped}
    left: list[str] = []
    with whole(target) as partial:
        partial.mkdir()
        if folder:
            shards = {shard.path for shard in tensors.shards} if isinstance(tensors, SafetensorsFolder) else set()

            def left_out(at: str, found: list[str]) -> set[str]:
                here = {name for name in found if Path(at) / name in shards}
                pickles = {name for name in found if Path(name).suffix in PICKLE_SUFFIXES}
                left.extend(str((Path(at) / name).relative_to(path)) for name in sorted(pickles))
                return here | pickles

            shutil.copytree(path, partial / FILES, ignore=left_out)
        else:
            (partial / FILES).mkdir()
        (partial / MANIFEST).write_text(manifest.to_json())
        write(partial / WEIGHTS, header_text(plan, {}), lambda key: _our_chunks(tensors, matching, key))
    skipped = [f"{name}: the tied head, equal to the embedding" for name in matching.aliases]
    skipped += [f"{name}: a buffer that the config determines" for name in matching.skipped]
    skipped += [f"{name}: a pickle beside the weights (an optimiser's state, say), never opened" for name in left]
    kind = "Hugging Face folder" if folder else "released state dict"
    return Report(f"{kind} -> lam_jax", len(tensors.tensors), tuple(skipped))


def _remember(tensors: TensorSource, folder: bool) -> dict[str, Any]:
    if isinstance(tensors, NpzFile):
        return {
            "kind": ".npz",
            "prefix": tensors.prefix,
            "compressed": tensors.compressed,
            "names": list(tensors.tensors),
        }
    shards = [{"file": shard.path.name, "header": shard.header} for shard in tensors.shards]
    return {"kind": "folder" if folder else ".safetensors", "shards": shards}


def _our_chunks(tensors: TensorSource, matching: Matching, key: str) -> Iterator[np.ndarray]:
    """A weight of ours, layer after layer, in chunks in our layout."""
    if key.startswith(_SKIPPED):
        yield tensors.read(key.removeprefix(_SKIPPED))
        return
    filling = matching.fillings[key]
    for name in filling.names:
        info = tensors.tensors[name]
        if filling.entry.layout == "same":
            for rows in row_chunks(info.shape[0], info.nbytes // info.shape[0]):
                yield tensors.read(name, (rows,))
        else:
            kernel = tensors.read(name).reshape(info.shape[0], -1).T
            for rows in row_chunks(kernel.shape[0], kernel.nbytes // kernel.shape[0]):
                yield np.ascontiguousarray(kernel[rows])


class _OurTensors:
    """The tensors of a checkpoint of ours under foreign names, in the files' layout."""

    def __init__(self, folder: Path):
        self.manifest, self.source, self.matching = open_checkpoint(folder)
        weights = weights_by_path(self.manifest.specs())
        vision = self.manifest.backbone.vision
        self.places: dict[str, tuple[Entry, int | None, tuple[int, ...]]] = {}
        for entry in foreign_entries(self.manifest):
            shape = file_shape(entry, weights[entry.path], vision)
            for layer, name in enumerate(entry.names()):
                self.places[name] = (entry, layer if entry.layers else None, shape)
        self.places.setdefault(HEAD, self.places[TABLE])

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Our weights' paths -> stored dtype."""
        return {key: filling.dtype for key, filling in self.matching.fillings.items()}

    def layer(self, key: str, layer: int | None) -> np.ndarray:
        """One layer of a weight (or all of one that is not stacked) in our layout."""
        return self.source.read(key) if layer is None else self.source.read(key, (slice(layer, layer + 1),))[0]

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The tensor that a foreign file calls `name`."""
        if (kept := _SKIPPED + name) in self.source.tensors:
            yield self.source.read(kept)
            return
        entry, layer, shape = self.places[canonical(name)]
        if layer is None and entry.layout == "same":
            info = self.source.tensors[entry.path]
            for rows in row_chunks(shape[0], info.nbytes // shape[0]):
                yield self.source.read(entry.path, (rows,))
        else:
            yield from to_file_layout(self.layer(entry.path, layer), entry, shape)


def _export(folder: Path, target: Path) -> Report:
    ours = _OurTensors(folder)
    came_from = ours.manifest.source or {}
    wanted = target.suffix if target.suffix in (".npz", ".safetensors") else "folder"
    if came_from.get("kind") == wanted:
        return _give_back(ours, came_from, folder, target)
    return _export_folder(ours, folder, target) if wanted == "folder" else _export_state_dict(ours, target)


def _give_back(ours: _OurTensors, came_from: dict[str, Any], folder: Path, target: Path) -> Report:
    """The checkpoint that ours was made from."""
    kind = came_from["kind"]
    with whole(target) as partial:
        if kind == ".npz":
            found = came_from["names"]
            arrays = {came_from["prefix"] + n: lambda n=n: np.concatenate([*ours.chunks(n)]) for n in found}
            write_npz(partial, arrays, came_from["compressed"])
        else:
            shards = came_from["shards"]
            found = [name for shard in shards for name in json.loads(shard["header"]) if name != "__metadata__"]
            if kind == "folder":
                shutil.copytree(folder / FILES, partial)
            for shard in shards:
                # The name alone: a manifest from elsewhere must not write outside the target.
                path = partial / Path(shard["file"]).name if kind == "folder" else partial
                write(path, shard["header"], ours.chunks)
    return Report(f"lam_jax -> {'Hugging Face folder' if kind == 'folder' else 'released state dict'}", len(found))


def _export_folder(ours: _OurTensors, folder: Path, target: Path) -> Report:
    """A new Hugging Face folder of the backbone alone."""
    config = ours.manifest.backbone
    dtypes = {key.removeprefix("backbone."): dtype for key, dtype in ours.dtypes.items()}
    plan = plan_tensors(names.backbone(config), spec_of(config), dtypes, config.vision)
    published = format_of(config).published
    plan = {published(name): part for name, part in plan.items()}
    at = folder / FILES
    files = {path.relative_to(at).as_posix(): path for path in at.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if name not in ("config.json", INDEX)}
    write_backbone_folder(
        target,
        config,
        plan,
        lambda key, layer: ours.layer(f"backbone.{key}", layer),
        files,
        MAX_SHARD_BYTES,
        read_foreign(at),
    )
    left = tuple(f"{key}: not part of a backbone" for key in ours.dtypes if key.startswith("latent."))
    return Report("lam_jax -> Hugging Face folder", len(plan), left)


def _export_state_dict(ours: _OurTensors, target: Path) -> Report:
    if ours.manifest.latent is None:
        raise CheckpointError(
            f"{ours.source.path}: holds no latent modules, which a released state dict needs: name an output folder "
            "instead of a file to get a Hugging Face checkpoint."
        )
    plan = released_plan(ours.manifest, ours.dtypes)
    write_released(target, plan, ours.layer)
    return Report("lam_jax -> released state dict", len(plan))
