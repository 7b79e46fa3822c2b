"""Qwen2.5-VL's files: config.json, flat (as published) or nested (as saved today), and tensor names."""

from typing import Any

from lam_jax.formats.config_keys import ID_KEYS, TEXT_KEYS, Dict, expect, our_ids, require, rope_of
from lam_jax.formats.end_tokens import end_ids
from lam_jax.formats.names import Entry, decoder, linear, norm
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig

ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"


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
    require(text, TEXT_KEYS, "text config", "Qwen2.5-VL")
    require(vision, ("hidden_size",), "vision config", "Qwen2.5-VL")
    expect(text.get("hidden_act", "silu"), "silu", "text hidden_act")
    expect(vision.get("hidden_act", "silu"), "silu", "vision hidden_act")
    expect(bool(text.get("use_sliding_window", False)), False, "use_sliding_window")
    rope = rope_of(text, 1e6)
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
        **our_ids(ids),
    )


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
        **{theirs: getattr(config, ours) for ours, (theirs, _) in ID_KEYS.items()},
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


def _vision(config: QwenConfig) -> list[Entry]:
    layers, at = config.vision.layers, "model.visual.blocks.{layer}"
    entries = [Entry("vision.patch_embed.kernel", "model.visual.patch_embed.proj.weight", "patch")]
    entries += norm("vision.blocks.attention_norm", f"{at}.norm1", layers)
    entries += norm("vision.blocks.mlp_norm", f"{at}.norm2", layers)
    entries += linear("vision.blocks.qkv", f"{at}.attn.qkv", layers, bias=True)
    entries += linear("vision.blocks.output", f"{at}.attn.proj", layers, bias=True)
    for ours in ("gate", "up", "down"):
        entries += linear(f"vision.blocks.mlp.{ours}", f"{at}.mlp.{ours}_proj", layers, bias=True)
    entries += norm("vision.merger_norm", "model.visual.merger.ln_q")
    entries += linear("vision.merger_up", "model.visual.merger.mlp.0", bias=True)
    entries += linear("vision.merger_down", "model.visual.merger.mlp.2", bias=True)
    return entries


def names(config: QwenConfig) -> list[Entry]:
    """Entries of `QwenVL`."""
    return _vision(config) + decoder(config.text)


def published(name: str) -> str:
    """The published checkpoints' name of a tensor."""
    return name.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)
