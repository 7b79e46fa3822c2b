"""Agents of folders that hold one: a Hugging Face folder, one of `lam-jax convert`, an exported agent."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lam_jax.agents.settings import SETTINGS, AgentError, AgentSettings, read_settings, require_same
from lam_jax.formats.agent_folder import FILES, MANIFEST, load_checkpoint, read_manifest
from lam_jax.formats.checkpoint_files import refuse_adapters
from lam_jax.formats.hf_config import read_config
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LatentConfig
from lam_jax.latent.model import LatentModel
from lam_jax.models.backbone import Backbone
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import image_settings
from lam_jax.models.image_settings_file import PREPROCESSOR, PROCESSOR, image_settings_file
from lam_jax.models.processor import read_image_settings
from lam_jax.nn.weight import is_weight
from lam_jax.parallel import ROLLOUT
from lam_jax.pipeline.content import model_content
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import METHODS, Method
from lam_jax.train.spaces import SPACES

logger = logging.getLogger("lam_jax")
# Where no recipe says otherwise; a batch gets the smallest that holds its longest prompt.
PROMPT_LENGTHS = tuple(2**n for n in range(6, 16))
ANSWER_LENGTH = 256


def backbone_only(backbone: Backbone) -> Agent:
    """An agent of the token space, which needs no latent modules: holes in their place, as `partition` leaves them."""
    specs = LatentModel.spec(LatentConfig(), backbone.config.text)
    return Agent(backbone=backbone, latent=jax.tree.map(lambda _: None, specs, is_leaf=is_weight))


def has_latent(agent: Agent) -> bool:
    """Whether an agent has its latent modules."""
    return agent.latent.codebook is not None


@dataclasses.dataclass(frozen=True)
class HuggingFaceAgent:
    """A Hugging Face folder of a known family, also one that `lam-jax export` wrote: an agent in the token space."""

    path: Path
    settings: AgentSettings

    def files(self) -> Path:
        """The folder itself."""
        return self.path

    def read(self, mesh: Mesh) -> Agent:
        """The backbone, in its compute dtype, as rollouts want it."""
        return backbone_only(load_backbone(self.path, mesh, ROLLOUT, read_config(self.path).dtype))

    def content(self) -> dict[str, Any]:
        """A hash of each file."""
        return model_content(self.path)


@dataclasses.dataclass(frozen=True)
class CheckpointAgent:
    """A folder of ours: lam_jax.json, weights, files/; with latent modules or without."""

    path: Path
    settings: AgentSettings

    def files(self) -> Path:
        """The files that travel with the weights."""
        return self.path / FILES

    def read(self, mesh: Mesh) -> Agent:
        """The weights, in the compute dtype, as rollouts want them."""
        dtype = read_manifest(self.path).backbone.dtype
        backbone, latent = load_checkpoint(self.path, mesh, ROLLOUT, dtype)
        return backbone_only(backbone) if latent is None else Agent(backbone=backbone, latent=latent)

    def content(self) -> dict[str, Any]:
        """A hash of each file."""
        return model_content(self.path)


def open_exported(path: Path, task: str | None, space: str | None) -> HuggingFaceAgent | CheckpointAgent:
    """The agent of a folder with agent.json.

    Raises:
        AgentError: damaged, or of another task or space.
    """
    settings = read_settings(path)
    require_same(path, task, space, settings)
    return (CheckpointAgent if (path / MANIFEST).is_file() else HuggingFaceAgent)(path, settings)


def open_hugging_face(path: Path, task: str | None, space: str | None) -> HuggingFaceAgent:
    """The agent of a Hugging Face folder: greedy, in the token space.

    Raises:
        AgentError: a task or the latent space was asked for.
        CheckpointError: the folder's config.json is not that of a known family, or there is an adapter in it.
    """
    refuse_adapters(path)
    settings = _plain("token", read_config(path), path, Method())
    require_same(path, task, space, settings)
    return HuggingFaceAgent(path, settings)


def open_converted(path: Path, task: str | None, space: str | None) -> CheckpointAgent:
    """The agent of a folder that `lam-jax convert` wrote: in the latent space where it has latent modules.

    What came from a state dict of the released code is read as that code reads it (`METHODS["official"]`).

    Raises:
        AgentError: a task was asked for, or the latent space of a backbone alone.
        CheckpointError: the folder's lam_jax.json is damaged.
    """
    manifest = read_manifest(path)
    latent = manifest.latent is not None
    if space is not None and SPACES[space].coded and not latent:
        raise AgentError(f"{path} holds a backbone without latent modules: its only space is 'token'.")
    method = METHODS["official"] if latent and manifest.source is not None else Method()
    settings = _plain(space or ("latent" if latent else "token"), manifest.backbone, path / FILES, method)
    require_same(path, task, space, settings)
    return CheckpointAgent(path, settings)


def _plain(space: str, config: BackboneConfig, files: Path, method: Method) -> AgentSettings:
    image = image_settings(config)
    if image_settings_file(files) is not None:
        image = read_image_settings(files)
    else:
        logger.warning(
            "%s says nothing of image settings (%s or %s): pictures get %d to %d pixels, transformers' defaults.",
            *(files, PREPROCESSOR, PROCESSOR, image.min_pixels, image.max_pixels),
        )
    return AgentSettings(space, image, PROMPT_LENGTHS, ANSWER_LENGTH, SamplingConfig(temperature=0.0), method)


def is_exported(path: Path) -> bool:
    """Whether a folder has an agent.json."""
    return (path / SETTINGS).is_file()
