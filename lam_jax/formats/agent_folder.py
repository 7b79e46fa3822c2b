"""Our own checkpoint of a backbone and its latent modules: a folder that can be read in slices.

lam_jax.json          format, version, sizes of backbone and latent modules, and where the folder came from
weights.safetensors   every weight under its path ("backbone.blocks.query.kernel"), layers stacked, kernels [in, out]
files/                other files that travel with the weights (config.json, tokenizer files), byte for byte
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lam_jax.formats.atomic import whole
from lam_jax.formats.checkpoint_files import SafetensorsFolder
from lam_jax.formats.load_backbone import load_weights
from lam_jax.formats.matching import Matching, match, weights_by_path
from lam_jax.formats.names import Entry
from lam_jax.formats.safetensors_io import CheckpointError, header_text, row_chunks, write
from lam_jax.formats.save_backbone import fetch
from lam_jax.latent.config import LatentConfig
from lam_jax.latent.model import LatentModel
from lam_jax.models.backbone import Backbone
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import FAMILIES, family_of, spec_of
from lam_jax.parallel import Rules

MANIFEST, WEIGHTS, FILES = "lam_jax.json", "weights.safetensors", "files"
_FORMAT, _VERSION = "lam_jax checkpoint", 1
_FAMILY, _FIRST_FAMILY = "family", "qwen2_5_vl"  # a key of "backbone", and what there was before it


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Contents of lam_jax.json.

    Attributes:
        backbone: sizes of the backbone.
        latent: sizes of the latent modules; None if the checkpoint holds none.
        source: what is needed to give a converted checkpoint back byte for byte (see formats/convert.py); None if the
            folder was not converted.
    """

    backbone: BackboneConfig
    latent: LatentConfig | None = None
    source: dict[str, Any] | None = None

    def specs(self) -> dict[str, Any]:
        """Specs of everything in the checkpoint: {"backbone": Backbone} and, if there, {"latent": LatentModel}."""
        latent = {} if self.latent is None else {"latent": LatentModel.spec(self.latent, self.backbone.text)}
        return {"backbone": spec_of(self.backbone), **latent}

    def to_json(self) -> str:
        """The file's text."""
        values = dataclasses.asdict(self)
        if (name := family_of(self.backbone).name) != _FIRST_FAMILY:
            values["backbone"][_FAMILY] = name
        return json.dumps({"format": _FORMAT, "version": _VERSION, **values}, indent=1) + "\n"


def read_manifest(folder: str | Path) -> Manifest:
    """Reads lam_jax.json.

    Raises:
        FileNotFoundError: not a checkpoint of ours.
        CheckpointError: damaged, or of another version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a lam_jax checkpoint (`lam-jax convert` makes one).")
    try:
        values = json.loads(path.read_text())
        if (found := (values["format"], values["version"])) != (_FORMAT, _VERSION):
            raise CheckpointError(f"{path}: found format {found}, expected {(_FORMAT, _VERSION)}. Convert it again.")
        return Manifest(
            _backbone_config(values["backbone"]),
            None if values["latent"] is None else LatentConfig(**values["latent"]),
            values["source"],
        )
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}). Convert or save the checkpoint again.") from error


def _backbone_config(values: dict[str, Any]) -> BackboneConfig:
    # Folders of before there were several families name none.
    kind = values.get(_FAMILY, _FIRST_FAMILY)
    if kind not in FAMILIES:
        raise ValueError(f"family {kind!r}, expected one of {', '.join(FAMILIES)}")
    config = FAMILIES[kind].config
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(config)}
    parts = {name: fields[name](**_tuples(values[name])) for name in ("text", "vision")}
    rest = {name: value for name, value in values.items() if name != _FAMILY}
    return config(**_tuples(rest) | parts)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def save_checkpoint(
    folder: str | Path,
    backbone: Backbone,
    latent: LatentModel | None = None,
    *,
    dtype: Any = None,
    files: Mapping[str, str | Path] | None = None,
) -> None:
    """Writes a checkpoint of ours. Every process has to call it; process 0 writes.

    Args:
        folder: must not exist yet; it appears only when it is complete.
        backbone: sharded or not.
        latent: modules that go with it.
        dtype: to store; default: the arrays' own.
        files: further files, name -> path to copy (tokenizer.json, ...).

    Raises:
        FileExistsError: `folder` is there already.
    """
    manifest = Manifest(backbone.config, None if latent is None else latent.config)
    leaves = weights_by_path({"backbone": backbone} | ({} if latent is None else {"latent": latent}))
    stored = {path: np.dtype(leaf.dtype if dtype is None else dtype) for path, leaf in leaves.items()}

    def rows_of(path: str) -> Iterator[np.ndarray]:
        leaf = leaves[path]
        for rows in row_chunks(leaf.shape[0], leaf.nbytes // leaf.shape[0]):
            yield fetch(leaf[rows]).astype(stored[path], copy=False)

    if jax.process_index() != 0:
        for path in leaves:  # the gathers are collective
            list(rows_of(path))
        return
    with whole(folder) as partial:
        (partial / FILES).mkdir(parents=True)
        for name, path in (files or {}).items():
            shutil.copyfile(path, partial / FILES / name)
        (partial / MANIFEST).write_text(manifest.to_json())
        header = header_text({path: (stored[path], leaf.shape) for path, leaf in leaves.items()}, {})
        write(partial / WEIGHTS, header, rows_of)


def open_checkpoint(folder: str | Path) -> tuple[Manifest, SafetensorsFolder, Matching]:
    """Manifest, weights file and which tensor fills which weight, checked against each other.

    Raises:
        FileNotFoundError: manifest or weights are missing.
        CheckpointError: damaged files, or keys and shapes that do not fit the manifest.
    """
    manifest = read_manifest(folder)
    source = SafetensorsFolder(Path(folder) / WEIGHTS)
    specs = manifest.specs()
    entries = [Entry(path, path) for path in weights_by_path(specs)]
    return manifest, source, match(entries, specs, source, manifest.backbone.vision, tied=False)


def load_checkpoint(
    folder: str | Path, mesh: Mesh, rules: Rules, dtype: Any = None
) -> tuple[Backbone, LatentModel | None]:
    """Backbone and latent modules (None if there are none), sharded; each process reads only the slices it owns.

    `dtype` as in `load_backbone`. Raises what `open_checkpoint` raises.
    """
    manifest, source, matching = open_checkpoint(folder)
    loaded = load_weights(manifest.specs(), matching, source, mesh, rules, dtype)
    return loaded["backbone"], loaded.get("latent")
