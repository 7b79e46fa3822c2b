"""A backbone's sizes from and to the `config.json` of a Hugging Face folder, whichever family it is of."""

import json
from pathlib import Path
from typing import Any

from lam_jax.formats.checkpoint_files import refuse_adapters
from lam_jax.formats.config_keys import ID_KEYS, Dict
from lam_jax.formats.end_tokens import end_ids_of, read_generation_config, split_ends, turn_end_of
from lam_jax.formats.families import FORMATS, format_of, known
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.models.config import BackboneConfig


def from_hf(config: Dict, generation: Dict | None = None, turn_end: int | None = None) -> BackboneConfig:
    """A backbone's sizes from the contents of a whole `config.json`, whose `model_type` says the family.

    Every id that its `eos_token_id` or that of `generation` lists ends an answer (formats/end_tokens.py).

    A config that names no padding token (the published ones) pads with its `bos_token_id`, <|endoftext|> in Qwen's
    vocabulary. Activations are bfloat16 where the weights are in half precision, unless the extra key `compute_dtype`
    that `to_hf` writes says otherwise.

    Args:
        config: the contents.
        generation: those of the `generation_config.json` beside it.
        turn_end: the id of <|im_end|> by the tokenizer's files; None: the first listed id that is not the padding.

    Raises:
        ValueError: another architecture, a missing key or an unsupported setting.
    """
    kind = config.get("model_type")
    if kind not in FORMATS:
        raise ValueError(
            f"config.json: model_type {kind!r} with architectures {config.get('architectures') or []} is the wrong "
            f"architecture, expected one of {known()}. Use a checkpoint of one of them."
        )
    text = config.get("text_config") or config
    ids = {ours: config.get(theirs, default) for ours, (theirs, default) in ID_KEYS.items()}
    ids["pad_id"] = _first_id(text, config, "pad_token_id", _first_id(text, config, "bos_token_id", 151643))
    ends = end_ids_of(text, config, generation or {})
    ids["eos_id"], ids["other_eos_ids"] = split_ends(ends, ids["pad_id"], turn_end)
    # Older transformers kept the flag inside text_config.
    tied = bool(config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False))
    stored = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or "float32"
    half = str(stored).removeprefix("torch.") in ("bfloat16", "float16")
    compute = config.get("compute_dtype", "bfloat16" if half else "float32")
    return FORMATS[kind].config(text, config.get("vision_config") or {}, ids, tied, compute)


def read_config(folder: str | Path) -> BackboneConfig:
    """The config of a Hugging Face checkpoint folder.

    Raises:
        FileNotFoundError: no config.json.
        CheckpointError: not JSON, or not a config this implementation can run, or an adapter; the message names it.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        refuse_adapters(Path(folder))
        raise FileNotFoundError(f"{path} is missing: expected the folder of a Hugging Face checkpoint.")
    try:
        values = json.loads(path.read_text())
        if is_run(values):
            raise CheckpointError(
                "the configuration of a run, expected that of a model. `lam-jax export RUN FOLDER` makes a folder of a "
                "run's agent, which can be loaded and converted."
            )
        return from_hf(values, read_generation_config(path.parent), turn_end_of(path.parent))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def is_run(values: Any) -> bool:
    """Whether the contents of a config.json are those of a run folder (lam_jax/runs/run.py)."""
    return isinstance(values, dict) and {"fingerprint", "config"} <= set(values)


def to_hf(config: BackboneConfig, dtype: str) -> dict[str, Any]:
    """The contents of a `config.json` as published, with weights stored in `dtype`; inverse of `from_hf`."""
    return format_of(config).to_hf(config, dtype)


def _first_id(text: Dict, config: Dict, key: str, default: int) -> int:
    for source in (text, config):
        value = source.get(key)
        if value is not None:
            return value[0] if isinstance(value, list) else value
    return default
