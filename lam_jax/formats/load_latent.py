"""The released code's state dict: backbone and latent modules in one file, names as in `formats.latent_names`.

It stores `lm_head.weight` even where the head is tied to the embedding. Files are .safetensors (one, or a folder of
shards) or .npz; pickles are refused.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import jax
import numpy as np
from jax.sharding import Mesh

from lam_jax.formats import backbone_names as names
from lam_jax.formats import latent_names as latent_names
from lam_jax.formats.agent_folder import Manifest
from lam_jax.formats.atomic import whole
from lam_jax.formats.backbone_names import canonical
from lam_jax.formats.checkpoint_files import TensorSource, open_tensors
from lam_jax.formats.load_backbone import load_weights
from lam_jax.formats.matching import HEAD, TABLE, Matching, check_tied, match, weights_by_path
from lam_jax.formats.names import Entry
from lam_jax.formats.safetensors_io import CheckpointError, header_text, write
from lam_jax.formats.save_backbone import Plan, ReadLayer, fetch, plan_tensors, to_file_layout
from lam_jax.latent.config import LatentConfig
from lam_jax.latent.model import LatentModel
from lam_jax.models.backbone import Backbone
from lam_jax.models.config import BackboneConfig
from lam_jax.parallel import TRAIN, Rules, make_mesh

_STACKS = {
    "inverse_layers": r"model\.language_model\.inverse_layers\.(\d+)\.",
    "policy_layers": r"model\.language_model\.policy_layers\.(\d+)\.",
    "merge_layers": r"model\.language_model\.action_merge_layers\.(\d+)\.",
}
_CODES = "model.language_model.inverse_head.weight"


def load_released(
    path: str | Path,
    config: BackboneConfig,
    latent: LatentConfig | None = None,
    *,
    mesh: Mesh | None = None,
    rules: Rules = TRAIN,
    dtype: Any = None,
) -> tuple[Backbone, LatentModel]:
    """Backbone and latent modules from a state dict of the released code.

    Args:
        path: .npz or .safetensors file, or a folder of safetensors.
        config: the backbone's sizes (the state dict does not tell heads or special ids).
        latent: sizes of the latent modules; default: what the tensors say, tau 2.0.
        mesh: to load onto; default: one device.
        rules: TRAIN or ROLLOUT.
        dtype: of the weights; default: that of the specs (float32), whatever the file holds.

    Raises:
        CheckpointError: pickle, damaged file, missing, unexpected, duplicate or wrongly shaped tensors.
    """
    source = open_tensors(path)
    manifest = Manifest(config, latent or latent_config(source))
    matching = match_released(manifest, source)
    check_tied(source, matching)
    loaded = load_weights(manifest.specs(), matching, source, mesh or make_mesh(), rules, dtype)
    return loaded["backbone"], loaded["latent"]


def save_released(path: str | Path, backbone: Backbone, latent: LatentModel, *, dtype: Any = None) -> None:
    """Writes the released code's state dict as .npz or .safetensors, by the suffix of `path`.

    Every process has to call it; process 0 writes. `dtype` is what is stored; default: the arrays' own.

    Raises:
        ValueError: another suffix, or bfloat16 into .npz, which has no such type.
        FileExistsError: `path` is there already.
    """
    manifest = Manifest(backbone.config, latent.config)
    leaves = weights_by_path({"backbone": backbone, "latent": latent})
    stored = {key: np.dtype(leaf.dtype if dtype is None else dtype) for key, leaf in leaves.items()}
    plan = released_plan(manifest, stored)

    def read(key: str, layer: int | None) -> np.ndarray:
        return fetch(leaves[key] if layer is None else leaves[key][layer]).astype(stored[key], copy=False)

    if jax.process_index() != 0:
        for entry, layer, _, _ in plan.values():  # the gathers are collective
            read(entry.path, layer)
        return
    write_released(path, plan, read)


def latent_config(source: TensorSource) -> LatentConfig:
    """The sizes of the latent modules, from tensor names and shapes.

    Raises:
        CheckpointError: the modules are not there.
    """
    present = {canonical(name): info for name, info in source.tensors.items()}
    sizes = {
        field: 1 + max((int(found[1]) for name in present if (found := re.match(pattern, name))), default=-1)
        for field, pattern in _STACKS.items()
    }
    absent = [name for name, depth in sizes.items() if depth == 0]
    if absent or _CODES not in present:
        raise CheckpointError(
            f"{source.path}: no latent modules ({', '.join(absent) or _CODES} not found), expected a state dict of the "
            "released latent-action code. For a plain checkpoint use its Hugging Face folder."
        )
    return dataclasses.replace(LatentConfig(codes=present[_CODES].shape[0]), **sizes)


def has_latent(source: TensorSource) -> bool:
    """Whether a checkpoint holds latent modules beside the backbone."""
    return any(re.match(pattern, canonical(name)) for name in source.tensors for pattern in _STACKS.values())


def foreign_entries(manifest: Manifest) -> list[Entry]:
    """The names tables of backbone and latent modules, their paths as in a checkpoint of ours."""
    tables = {"backbone": names.backbone(manifest.backbone)}
    if manifest.latent is not None:
        tables["latent"] = latent_names.latent(manifest.latent, manifest.backbone.text)
    return [dataclasses.replace(e, path=f"{part}.{e.path}") for part, table in tables.items() for e in table]


def match_released(manifest: Manifest, source: TensorSource) -> Matching:
    """Which tensor fills which weight of `manifest.specs()`; raises CheckpointError as `match` does."""
    config = manifest.backbone
    return match(foreign_entries(manifest), manifest.specs(), source, config.vision, config.text.tied)


def released_plan(manifest: Manifest, dtypes: Mapping[str, np.dtype]) -> Plan:
    """All tensors of a state dict, the copy of a tied head included.

    Raises:
        ValueError: inverse dynamics reads what the released code does not.
    """
    if manifest.latent is not None and manifest.latent.inverse_reads != "states":
        raise ValueError(
            f"The released code's inverse model reads states; this one was trained with LatentConfig.inverse_reads "
            f"{manifest.latent.inverse_reads!r} and would infer other codes there. Keep it in lam_jax's own format."
        )
    plan = plan_tensors(foreign_entries(manifest), manifest.specs(), dtypes, manifest.backbone.vision)
    return {**plan, HEAD: plan.get(HEAD, plan[TABLE])}


def write_released(path: str | Path, plan: Plan, read: ReadLayer, prefix: str = "") -> None:
    """Writes the tensors of `plan`, one at a time; see `save_released`. `prefix` goes before names in an .npz file."""

    def chunks(name: str) -> Iterator[np.ndarray]:
        entry, layer, _, shape = plan[name]
        return to_file_layout(read(entry.path, layer), entry, shape)

    path = Path(path)
    if path.suffix == ".safetensors":
        with whole(path) as partial:
            write(partial, header_text({n: part[2:] for n, part in plan.items()}, {"format": "pt"}), chunks)
    elif path.suffix == ".npz":
        with whole(path) as partial:
            write_npz(partial, {prefix + name: lambda name=name: np.concatenate([*chunks(name)]) for name in plan})
    else:
        raise ValueError(
            f"{path}: unknown suffix {path.suffix!r}, expected .safetensors or .npz (pickles are not written)."
        )


def write_npz(path: Path, arrays: Mapping[str, Callable[[], np.ndarray]], compressed: bool = False) -> None:
    """Writes what `np.savez` (or `np.savez_compressed`) would, one array at a time.

    Raises:
        ValueError: bfloat16, which .npz files cannot hold.
    """
    with ZipFile(path, "w", ZIP_DEFLATED if compressed else ZIP_STORED) as archive:
        for name, make in arrays.items():
            array = make()
            if array.dtype.kind != "f":
                raise ValueError(f"{name} is {array.dtype}, which .npz cannot hold: use .safetensors or another dtype.")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
