"""QwenConfig from and to a Hugging Face Qwen2.5-VL `config.json`, flat (as published) or nested (as saved today)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lam_jax.formats.checkpoint_files import refuse_adapters
from lam_jax.formats.end_tokens import end_ids_of, read_generation_config, split_ends, turn_end_of
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig

Dict = Mapping[str, Any]

ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"
_TEXT_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Our name -> the name in config.json; the defaults are those of transformers' Qwen2_5_VLConfig.
_ID_KEYS = {
    "image_id": ("image_token_id", 151655),
    "video_id": ("video_token_id", 151656),
    "vision_start_id": ("vision_start_token_id", 151652),
    "vision_end_id": ("vision_end_token_id", 151653),
}
# Names of special ids in configs written beside golden vectors.
_SHORT_IDS = {
    "pad": "pad_id",
    "eos": "eos_id",
    "image": "image_id",
    "video": "video_id",
    "vstart": "vision_start_id",
    "vend": "vision_end_id",
}


def from_hf_dicts(text: Dict, vision: Dict, ids: Dict, tied: bool, compute_dtype: str = "float32") -> QwenConfig:
    """A QwenConfig from the text and vision dictionaries of a Hugging Face config.

    Args:
        text: keys of Qwen2_5_VLTextConfig.
        vision: keys of Qwen2_5_VLVisionConfig.
        ids: special token ids under our names (`pad_id`, ...) or short ones (pad, eos, image, video, vstart, vend).
        tied: whether the output head is the embedding table.
        compute_dtype: of the activations.

    Raises:
        ValueError: a missing key, or a setting that this implementation does not compute.
    """
    _require(text, _TEXT_KEYS, "text config")
    _require(vision, ("hidden_size",), "vision config")
    _expect(text.get("hidden_act", "silu"), "silu", "text hidden_act")
    _expect(vision.get("hidden_act", "silu"), "silu", "vision hidden_act")
    _expect(bool(text.get("use_sliding_window", False)), False, "use_sliding_window")
    rope = {"rope_theta": text.get("rope_theta", 1e6), **(text.get("rope_scaling") or {})}
    rope |= text.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"config.json: rope type {kind!r} is not supported, expected 'default' or 'mrope'.")
    if "mrope_section" not in rope:
        raise ValueError(
            "config.json: no mrope_section in rope_scaling or rope_parameters, expected three numbers such as "
            "[16, 24, 24]."
        )
    heads = text["num_attention_heads"]
    return QwenConfig(
        text=TextConfig(
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            hidden=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads", 8) or heads,
            mrope_sections=tuple(rope["mrope_section"]),
            rope_theta=float(rope["rope_theta"]),
            norm_epsilon=float(text.get("rms_norm_eps", 1e-5)),
            tied=tied,
        ),
        vision=VisionConfig(
            width=vision["hidden_size"],
            hidden=vision.get("intermediate_size", 3420),
            layers=vision.get("depth", 32),
            heads=vision.get("num_heads", 16),
            full_layers=tuple(vision.get("fullatt_block_indexes", (7, 15, 23, 31))),
            window=vision.get("window_size", 112),
            out_width=vision.get("out_hidden_size", 3584),
            patch=vision.get("patch_size", 14),
            temporal=vision.get("temporal_patch_size", 2),
            merge=vision.get("spatial_merge_size", 2),
            channels=vision.get("in_channels", vision.get("in_chans", 3)),
        ),
        compute_dtype=compute_dtype,
        **{_SHORT_IDS.get(name, name): value for name, value in ids.items()},
    )


def from_hf(config: Dict, generation: Dict | None = None, turn_end: int | None = None) -> QwenConfig:
    """A QwenConfig from the contents of a whole `config.json`.

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
    architectures = config.get("architectures") or []
    if config.get("model_type") != "qwen2_5_vl":
        raise ValueError(
            f"config.json: model_type {config.get('model_type')!r} with architectures {architectures} is the wrong "
            f"architecture, expected model_type 'qwen2_5_vl' ({ARCHITECTURE}). Use a Qwen2.5-VL checkpoint."
        )
    text = config.get("text_config") or config
    ids = {ours: config.get(theirs, default) for ours, (theirs, default) in _ID_KEYS.items()}
    ids["pad_id"] = _first_id(text, config, "pad_token_id", _first_id(text, config, "bos_token_id", 151643))
    ends = end_ids_of(text, config, generation or {})
    ids["eos_id"], ids["other_eos_ids"] = split_ends(ends, ids["pad_id"], turn_end)
    # Older transformers kept the flag inside text_config.
    tied = bool(config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False))
    stored = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or "float32"
    half = str(stored).removeprefix("torch.") in ("bfloat16", "float16")
    compute = config.get("compute_dtype", "bfloat16" if half else "float32")
    return from_hf_dicts(text, config.get("vision_config") or {}, ids, tied, compute)


def read_config(folder: str | Path) -> QwenConfig:
    """The config of a Hugging Face checkpoint folder.

    Raises:
        FileNotFoundError: no config.json.
        CheckpointError: not JSON, or not a config this implementation can run, or an adapter; the message names it.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        refuse_adapters(Path(folder))
        raise FileNotFoundError(f"{path} is missing: expected the folder of a Hugging Face Qwen2.5-VL checkpoint.")
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


def to_hf(config: QwenConfig, dtype: str) -> dict[str, Any]:
    """The contents of a flat `config.json`, as published, with weights stored in `dtype`; inverse of `from_hf`."""
    text, vision = config.text, config.vision
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen2_5_vl",
        "torch_dtype": dtype,
        "compute_dtype": config.compute_dtype,
        "vocab_size": text.vocab_size,
        "hidden_size": text.width,
        "intermediate_size": text.hidden,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": text.norm_epsilon,
        "rope_theta": text.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_sections)},
        "tie_word_embeddings": text.tied,
        "use_sliding_window": False,
        "bos_token_id": config.pad_id,
        "eos_token_id": end_ids(config),
        "pad_token_id": config.pad_id,
        **{theirs: getattr(config, ours) for ours, (theirs, _) in _ID_KEYS.items()},
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": vision.layers,
            "hidden_act": "silu",
            "hidden_size": vision.width,
            "intermediate_size": vision.hidden,
            "num_heads": vision.heads,
            "in_channels": vision.channels,
            "out_hidden_size": vision.out_width,
            "patch_size": vision.patch,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": vision.temporal,
            "window_size": vision.window,
            "fullatt_block_indexes": list(vision.full_layers),
        },
    }


def end_ids(config: QwenConfig) -> int | list[int]:
    """`eos_token_id` as config.json and generation_config.json hold it."""
    return config.eos_id if len(config.eos_ids) == 1 else list(config.eos_ids)


def _first_id(text: Dict, config: Dict, key: str, default: int) -> int:
    for source in (text, config):
        value = source.get(key)
        if value is not None:
            return value[0] if isinstance(value, list) else value
    return default


def _require(config: Dict, keys: tuple[str, ...], where: str) -> None:
    missing = [key for key in keys if key not in config]
    if missing:
        raise ValueError(f"config.json: {where} lacks {missing}; a Qwen2.5-VL config has them all.")


def _expect(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise ValueError(f"config.json: {what} is {found!r}, but only {expected!r} is supported.")
