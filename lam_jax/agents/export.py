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
from lam_jax.agents.checkpoints import has_latent
from lam_jax.agents.load import find
from lam_jax.agents.run_folder import RunAgent
from lam_jax.agents.settings import SETTINGS, AgentError, AgentSettings
from lam_jax.formats.agent_folder import FILES, MANIFEST, save_checkpoint
from lam_jax.formats.atomic import whole
from lam_jax.formats.checkpoint_files import INDEX
from lam_jax.formats.end_tokens import end_ids
from lam_jax.formats.families import format_of
from lam_jax.formats.foreign import over, read_foreign
from lam_jax.formats.save_backbone import save_backbone
from lam_jax.latent.agent import Agent
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import family_of
from lam_jax.models.image_settings_file import NESTED, PREPROCESSOR, PROCESSOR, read_image_values
from lam_jax.models.processor import ImageSettings
from lam_jax.models.tokenizer import TEMPLATES
from lam_jax.parallel.multihost import barrier, from_first, is_first
from lam_jax.parallel.processes import whole_mesh
from lam_jax.recipe import Weights
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.disk import require_space
from lam_jax.train.partition import count_parameters

GENERATION = "generation_config.json"
# Files of a model's folder that go along: its tokenizer, templates, licence and whatever else describes it. Weights do
# not, nor what is written anew or is not the model's but of one training.
TAKEN_ALONG = ("*.json", "*.jinja", "*.txt", "*.py", "*.model", "LICENSE*", "NOTICE*", f"{TEMPLATES}/*.jinja")
LEFT_BEHIND = (
    *("config.json", GENERATION, PREPROCESSOR, SETTINGS, MANIFEST, INDEX, "pytorch_model.bin.index.json"),
    *("trainer_state.json", "training_args.json", "all_results.json", "train_results.json", "eval_results.json"),
    *("scores.json", "requirements.txt"),
)
# Keys of generation_config.json that choose tokens; what an agent does not do must not be done with it elsewhere.
_CHOOSING = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping", "penalty_alpha"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "bad_words_ids"),
    *("force_words_ids", "constraints", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"),
    *("begin_suppress_tokens", "sequence_bias", "guidance_scale", "exponential_decay_length_penalty"),
    *("min_length", "min_new_tokens", "max_length", "stop_strings", "dola_layers", "watermarking_config"),
    *("renormalize_logits", "remove_invalid_values", "num_return_sequences", "prompt_lookup_num_tokens"),
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
            _save(agent, partial, stored, read_foreign(found.files()))
            files = partial / FILES if found.space.coded else partial
            write_files(found.files(), files, found.settings, agent.backbone.config, stored)
            (partial / SETTINGS).write_text(found.settings.to_json(), encoding="utf-8")
            (partial / "README.md").write_text(
                model_card(found, folder.name, family_of(agent.backbone.config)), encoding="utf-8"
            )
    else:
        _save(agent, folder, stored, None)
    barrier("export")
    return found.settings


def _save(agent: Agent, folder: Path, dtype: np.dtype, base: Mapping[str, Any] | None) -> None:
    """The weights; collective. `base`: the model's config.json."""
    if not has_latent(agent):
        save_backbone(agent.backbone, folder, dtype=dtype, base=base)
    else:
        save_checkpoint(folder, agent.backbone, agent.latent, dtype=dtype)


def write_files(model: Path, files: Path, settings: AgentSettings, config: BackboneConfig, dtype: np.dtype) -> None:
    """Tokenizer, image settings, sampling; in a folder of ours also the config.json of a Hugging Face folder.

    Args:
        model: folder with the files of the model that training began with.
        files: where they go.
        settings: of the agent.
        config: of its backbone.
        dtype: of the stored weights.
    """
    for path in sorted(path for pattern in TAKEN_ALONG for path in model.glob(pattern)):
        if path.is_file() and path.name not in LEFT_BEHIND:
            target = files / path.relative_to(model)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    image = preprocessor_config(settings.image, read_image_values(model), format_of(config).processor)
    contents: dict[str, Mapping[str, Any]] = {PREPROCESSOR: image}
    if (nested := _object(model / PROCESSOR)).get(NESTED):
        contents[PROCESSOR] = nested | {NESTED: image}
    generation = _object(model / GENERATION)
    if settings.action_space.coded:
        contents["config.json"] = over(read_foreign(model), config, dtype.name)
        if generation:
            contents[GENERATION] = generation
    else:
        contents[GENERATION] = generation_config(settings.sampling, settings.answer_length, config, generation)
    for name, values in contents.items():
        (files / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def preprocessor_config(image: ImageSettings, base: Mapping[str, Any], processor: str) -> dict[str, Any]:
    """The contents of preprocessor_config.json; `base` are those of the model that training began with.

    The limits stand where older versions of transformers look for them and where newer ones do. transformers has no
    stretching to one size: pictures of about that many pixels come nearest, and one that has the size already stays as
    it is.
    """
    kept = {name: value for name, value in base.items() if name not in ("size", "min_pixels", "max_pixels")}
    least, most = (image.min_pixels, image.max_pixels)
    if image.size is not None:
        least = most = image.size[0] * image.size[1]
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor,
        **kept,
        "size": {"shortest_edge": least, "longest_edge": most},
        "min_pixels": least,
        "max_pixels": most,
        "patch_size": image.patch_size,
        "temporal_patch_size": image.temporal_patch_size,
        "merge_size": image.merge_size,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def generation_config(
    sampling: SamplingConfig, length: int, config: BackboneConfig, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The contents of generation_config.json, so that transformers samples as the agent does.

    `base` are those of the model that training began with: of them stays what does not choose tokens.
    """
    ids = {"bos_token_id": config.pad_id, "eos_token_id": end_ids(config), "pad_token_id": config.pad_id}
    values: dict[str, Any] = {name: value for name, value in (base or {}).items() if name not in _CHOOSING}
    values |= {**ids, "max_new_tokens": length, "repetition_penalty": sampling.repetition_penalty}
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
