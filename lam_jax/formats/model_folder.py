"""The folder that a run's backbone is read from: a Hugging Face checkpoint, or one of ours (`lam-jax convert`)."""

import logging
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from lam_jax.formats.agent_folder import FILES, MANIFEST, open_checkpoint, read_manifest
from lam_jax.formats.hf_config import read_config
from lam_jax.formats.load_backbone import load_backbone, load_weights
from lam_jax.models.backbone import Backbone
from lam_jax.models.config import BackboneConfig
from lam_jax.parallel import Rules

logger = logging.getLogger("lam_jax")
PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "additional_chat_templates/*.jinja")


def is_ours(folder: Path) -> bool:
    """Whether a folder is a checkpoint of ours."""
    return (folder / MANIFEST).is_file()


def read_model_config(folder: Path) -> BackboneConfig:
    """The backbone's sizes.

    Raises:
        FileNotFoundError, CheckpointError: not the folder of a model.
    """
    return read_manifest(folder).backbone if is_ours(folder) else read_config(folder)


def load_model(folder: Path, mesh: Mesh, rules: Rules, dtype: Any = None) -> Backbone:
    """The backbone, sharded; see `load_backbone`. Latent modules beside it are passed over, with a word on the log."""
    if not is_ours(folder):
        return load_backbone(folder, mesh, rules, dtype)
    manifest, source, matching = open_checkpoint(folder)
    if manifest.latent is not None:
        logger.warning("%s holds latent modules too: they are passed over, and new ones are made.", folder)
    specs = {"backbone": manifest.specs()["backbone"]}
    return load_weights(specs, matching, source, mesh, rules, dtype)["backbone"]


def tokenizer_folder(folder: Path) -> Path:
    """Where its tokenizer files are."""
    return folder / FILES if is_ours(folder) else folder


def model_files(folder: Path) -> list[Path]:
    """The files that model and tokenizer are read from, sorted."""
    folders = dict.fromkeys((folder, tokenizer_folder(folder)))
    return sorted(path for place in folders for pattern in PATTERNS for path in place.glob(pattern))
