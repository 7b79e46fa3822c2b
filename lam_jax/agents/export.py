"""`lam-jax export`: the agent of a run as one folder that can be taken elsewhere.

In the latent space it is a checkpoint of ours (lam_jax.json, weights.safetensors, files/), in the token space a plain
Hugging Face folder; both have agent.json, which says how the agent answers, and a model card, README.md.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lam_jax.agents.card import model_card
from lam_jax.agents.checkpoints import PREPROCESSOR, has_latent
from lam_jax.agents.load import find
from lam_jax.agents.run_folder import RunAgent
from lam_jax.agents.settings import SETTINGS, AgentError, AgentSettings
from lam_jax.formats.agent_folder import FILES, save_checkpoint
from lam_jax.formats.atomic import whole
from lam_jax.formats.hf_config import end_ids, to_hf
from lam_jax.formats.save_backbone import save_backbone
from lam_jax.latent.agent import Agent
from lam_jax.models.processor import ImageSettings
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.parallel.multihost import barrier, from_first, is_first
from lam_jax.parallel.processes import whole_mesh
from lam_jax.recipe import Weights
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.disk import require_space
from lam_jax.train.partition import count_parameters

GENERATION = "generation_config.json"
# What of a model's folder goes along, besides what is written anew.
TAKEN_ALONG = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "chat_template.json", "chat_template.jinja", "video_preprocessor_config.json"),
    *("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"),
)


def export(
    run: str | Path,
    folder: str | Path,
    *,
    task: str | None = None,
    space: str | None = None,
    weights: Weights | None = None,
    dtype: str | None = None,
    mesh: tuple[int, int, int] = (1, 1, 1),
) -> AgentSettings:
    """Writes the agent of a run to `folder`, which appears only when it is complete. Every process has to call it.

    Args:
        run: its folder; of a run that is not finished the agent is that of the last complete phase.
        folder: must not exist yet.
        task, space: which agent, where the run has several.
        weights: "last" or "best" on validation: whichever of them the run kept; None: whichever it kept.
        dtype: of the weights; default: the compute dtype, which gives the same answers; "float32": as trained.
        mesh: data, fsdp and tensor sizes of the devices that the weights are read onto.

    Returns:
        What agent.json says.

    Raises:
        AgentError: no run, another task or space or several and none named, or weights that the run did not keep.
        FileExistsError: `folder` is there already.
        NoSpaceError: the disk is full.
    """
    found, folder = find(run, task, space), Path(folder)
    if not isinstance(found, RunAgent):
        raise AgentError(f"{run} is no run but an agent or a checkpoint already: copy it, or see `lam-jax convert`.")
    if weights is not None and weights != found.weights:
        raise AgentError(_not_kept(found, weights))
    if dtype not in (None, "float32", "bfloat16"):
        raise AgentError(f"dtype is {dtype!r}, expected 'float32' or 'bfloat16'.")
    if from_first(int(folder.exists() and not (folder.is_dir() and not any(folder.iterdir())))):
        raise FileExistsError(f"{folder} exists already: remove it or choose another folder.")
    agent = found.masters(whole_mesh(mesh))
    stored = np.dtype(dtype or agent.backbone.config.dtype)
    if is_first():
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        require_space(folder.absolute(), count_parameters(agent) * stored.itemsize)
        with whole(folder) as partial:
            _save(agent, partial, stored)
            files = partial / FILES if found.space.coded else partial
            _write_files(found, agent.backbone.config, files, stored)
            (partial / SETTINGS).write_text(found.settings.to_json(), encoding="utf-8")
            (partial / "README.md").write_text(model_card(found, folder.name), encoding="utf-8")
    else:
        _save(agent, folder, stored)
    barrier("export")
    return found.settings


def _save(agent: Agent, folder: Path, dtype: np.dtype) -> None:
    """The weights; collective."""
    if not has_latent(agent):
        save_backbone(agent.backbone, folder, dtype=dtype)
    else:
        save_checkpoint(folder, agent.backbone, agent.latent, dtype=dtype)


def _write_files(found: RunAgent, config: QwenConfig, files: Path, dtype: np.dtype) -> None:
    """Tokenizer, image settings, sampling; in a folder of ours also the config.json of a Hugging Face folder."""
    model = found.files()
    for name in TAKEN_ALONG:
        if (model / name).is_file():
            shutil.copyfile(model / name, files / name)
    settings = found.settings
    base = json.loads((model / PREPROCESSOR).read_text()) if (model / PREPROCESSOR).is_file() else {}
    contents: dict[str, Mapping[str, Any]] = {PREPROCESSOR: preprocessor_config(settings.image, base)}
    if found.space.coded:
        contents["config.json"] = to_hf(config, dtype.name)
    else:
        contents[GENERATION] = generation_config(settings.sampling, settings.answer_length, config)
    for name, values in contents.items():
        (files / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def preprocessor_config(image: ImageSettings, base: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of preprocessor_config.json; `base` are those of the model that training began with.

    transformers has no stretching to one size: pictures of about that many pixels come nearest, and one that has the
    size already stays as it is.
    """
    kept = {name: value for name, value in base.items() if name not in ("size", "min_pixels", "max_pixels")}
    least, most = (image.min_pixels, image.max_pixels)
    if image.size is not None:
        least = most = image.size[0] * image.size[1]
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        **kept,
        "min_pixels": least,
        "max_pixels": most,
        "patch_size": image.patch_size,
        "temporal_patch_size": image.temporal_patch_size,
        "merge_size": image.merge_size,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def generation_config(sampling: SamplingConfig, length: int, config: QwenConfig) -> dict[str, Any]:
    """The contents of generation_config.json, so that transformers samples as the agent does."""
    ids = {"bos_token_id": config.pad_id, "eos_token_id": end_ids(config), "pad_token_id": config.pad_id}
    values: dict[str, Any] = {**ids, "max_new_tokens": length, "repetition_penalty": sampling.repetition_penalty}
    if sampling.greedy:
        return values | {"do_sample": False}
    # top_k 0 is none; left out, transformers would take 50.
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p}
    return values | {"do_sample": True, **drawn}


def _not_kept(found: RunAgent, weights: Weights) -> str:
    name = "recipe.rl" if found.is_complete else "the stage's settings in the recipe"
    return (
        f"{found.path} kept only the {found.weights} weights of {found.phase}, not the {weights}: set {name}.weights = "
        f"{weights!r} before a run, in another run folder, and they will be kept instead."
    )
