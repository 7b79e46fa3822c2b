"""Qwen3-VL's files: config.json and tensor names of the dense models."""

from typing import Any

from lam_jax.formats.config_keys import ID_KEYS, TEXT_KEYS, Dict, expect, our_ids, require, rope_of
from lam_jax.formats.end_tokens import end_ids
from lam_jax.formats.names import Entry, decoder, layer_norm, linear
from lam_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig, table_side

ARCHITECTURE = "Qwen3VLForConditionalGeneration"
_VISION_THETA = 10000.0


def from_hf_dicts(text: Dict, vision: Dict, ids: Dict, tied: bool, compute_dtype: str = "float32") -> Qwen3VLConfig:
    """A Qwen3VLConfig from the text and vision dictionaries of a Hugging Face config.

    What they leave out is as in transformers' classes.

    Args:
        text: keys of Qwen3VLTextConfig.
        vision: keys of Qwen3VLVisionConfig.
        ids: special token ids under our names (`pad_id`, ...) or short ones (pad, eos, image, video, vstart, vend).
        tied: whether the output head is the embedding table.
        compute_dtype: of the activations.

    Raises:
        ValueError: a missing key, or a setting that this implementation does not compute.
    """
    require(text, TEXT_KEYS, "text config", "Qwen3-VL")
    expect(text.get("hidden_act", "silu"), "silu", "text hidden_act")
    expect(bool(text.get("attention_bias", False)), False, "attention_bias")
    expect(vision.get("hidden_act", "gelu_pytorch_tanh"), "gelu_pytorch_tanh", "vision hidden_act")
    rope = rope_of(text, 5e5)
    expect(rope.get("mrope_interleaved", True), True, "mrope_interleaved")
    turns = vision.get("rope_parameters") or {}
    expect(turns.get("rope_type", "axial"), "axial", "vision rope_type")
    expect(float(turns.get("rope_theta", _VISION_THETA)), _VISION_THETA, "vision rope_theta")
    heads = text["num_attention_heads"]
    return Qwen3VLConfig(
        text=TextConfig(
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            hidden=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads", 32) or heads,
            head_dim=text.get("head_dim", 128),
            mrope_sections=tuple(rope.get("mrope_section", (24, 20, 20))),
            rope_theta=float(rope["rope_theta"]),
            norm_epsilon=float(text.get("rms_norm_eps", 1e-6)),
            tied=tied,
        ),
        vision=VisionConfig(
            width=vision.get("hidden_size", 1152),
            hidden=vision.get("intermediate_size", 4304),
            layers=vision.get("depth", 27),
            heads=vision.get("num_heads", 16),
            out_width=vision.get("out_hidden_size", 3584),
            table_side=table_side(vision.get("num_position_embeddings", 2304)),
            deepstack_layers=tuple(vision.get("deepstack_visual_indexes", (8, 16, 24))),
            patch=vision.get("patch_size", 16),
            temporal=vision.get("temporal_patch_size", 2),
            merge=vision.get("spatial_merge_size", 2),
            channels=vision.get("in_channels", 3),
        ),
        compute_dtype=compute_dtype,
        **our_ids(ids),
    )


def to_hf(config: Qwen3VLConfig, dtype: str) -> dict[str, Any]:
    """The contents of a `config.json`, as published, with weights stored in `dtype`."""
    text, vision = config.text, config.vision
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3_vl",
        "dtype": dtype,
        "compute_dtype": config.compute_dtype,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "dtype": dtype,
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": text.hidden,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "head_dim": text.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "rms_norm_eps": text.norm_epsilon,
            "rope_theta": text.rope_theta,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": list(text.mrope_sections),
            },
            "tie_word_embeddings": text.tied,
            "bos_token_id": config.pad_id,
            "eos_token_id": end_ids(config),
            "pad_token_id": config.pad_id,
        },
        "tie_word_embeddings": text.tied,
        **{theirs: getattr(config, ours) for ours, (theirs, _) in ID_KEYS.items()},
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": vision.layers,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision.width,
            "intermediate_size": vision.hidden,
            "num_heads": vision.heads,
            "in_channels": vision.channels,
            "out_hidden_size": vision.out_width,
            "num_position_embeddings": vision.table_side**2,
            "deepstack_visual_indexes": list(vision.deepstack_layers),
            "patch_size": vision.patch,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": vision.temporal,
        },
    }


def names(config: Qwen3VLConfig) -> list[Entry]:
    """Entries of `Qwen3VL`."""
    layers, at = config.vision.layers, "model.visual.blocks.{layer}"
    entries = [
        Entry("vision.patch_embed.kernel", "model.visual.patch_embed.proj.weight", "patch"),
        Entry("vision.patch_embed.bias", "model.visual.patch_embed.proj.bias"),
        Entry("vision.table", "model.visual.pos_embed.weight"),
    ]
    entries += layer_norm("vision.blocks.attention_norm", f"{at}.norm1", layers)
    entries += layer_norm("vision.blocks.mlp_norm", f"{at}.norm2", layers)
    entries += linear("vision.blocks.qkv", f"{at}.attn.qkv", layers, bias=True)
    entries += linear("vision.blocks.output", f"{at}.attn.proj", layers, bias=True)
    entries += linear("vision.blocks.mlp.up", f"{at}.mlp.linear_fc1", layers, bias=True)
    entries += linear("vision.blocks.mlp.down", f"{at}.mlp.linear_fc2", layers, bias=True)
    entries += _merger("vision.merger", "model.visual.merger")
    features = len(config.vision.deepstack_layers)
    if features:
        entries += _merger("vision.features", "model.visual.deepstack_merger_list.{layer}", features)
    return entries + decoder(config.text)


def _merger(path: str, name: str, layers: int = 0) -> list[Entry]:
    entries = layer_norm(f"{path}.norm", f"{name}.norm", layers)
    entries += linear(f"{path}.mlp.up", f"{name}.linear_fc1", layers, bias=True)
    return entries + linear(f"{path}.mlp.down", f"{name}.linear_fc2", layers, bias=True)


def published(name: str) -> str:
    """The published checkpoints' name of a tensor: today's in transformers."""
    return name
