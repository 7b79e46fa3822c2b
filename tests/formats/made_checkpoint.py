"""Hugging Face Qwen2.5-VL checkpoints made up for tests, written with the `safetensors` package and no code of ours.

Names and shapes are spelled out as transformers' modules have them, so that our names table is checked against them.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from lam_jax.models.qwen2_5_vl.config import QwenConfig

Tensors = dict[str, np.ndarray]
BF16 = np.dtype(ml_dtypes.bfloat16)


def shapes(config: QwenConfig) -> dict[str, tuple[int, ...]]:
    """Published tensor names of a Qwen2.5-VL and their shapes."""
    text, vision = config.text, config.vision
    d, f, w, h = text.width, text.hidden, vision.width, vision.hidden
    kv, joined = text.kv_heads * text.head_dim, w * vision.merge_patches
    found: dict[str, tuple[int, ...]] = {
        "visual.patch_embed.proj.weight": (w, 3, vision.temporal, vision.patch, vision.patch),
        "visual.merger.ln_q.weight": (w,),
        "visual.merger.mlp.0.weight": (joined, joined),
        "visual.merger.mlp.0.bias": (joined,),
        "visual.merger.mlp.2.weight": (d, joined),
        "visual.merger.mlp.2.bias": (d,),
        "model.embed_tokens.weight": (text.vocab_size, d),
        "model.norm.weight": (d,),
    }
    for i in range(vision.layers):
        block = {"norm1.weight": (w,), "norm2.weight": (w,)}
        block |= {"attn.qkv.weight": (3 * w, w), "attn.qkv.bias": (3 * w,)}
        block |= {"attn.proj.weight": (w, w), "attn.proj.bias": (w,)}
        block |= {"mlp.gate_proj.weight": (h, w), "mlp.gate_proj.bias": (h,)}
        block |= {"mlp.up_proj.weight": (h, w), "mlp.up_proj.bias": (h,)}
        block |= {"mlp.down_proj.weight": (w, h), "mlp.down_proj.bias": (w,)}
        found |= {f"visual.blocks.{i}.{name}": shape for name, shape in block.items()}
    for i in range(text.layers):
        block = {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
        for name, out in (("q", d), ("k", kv), ("v", kv)):
            block |= {f"self_attn.{name}_proj.weight": (out, d), f"self_attn.{name}_proj.bias": (out,)}
        block |= {"self_attn.o_proj.weight": (d, d)}
        block |= {"mlp.gate_proj.weight": (f, d), "mlp.up_proj.weight": (f, d), "mlp.down_proj.weight": (d, f)}
        found |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
    return found if text.tied else {**found, "lm_head.weight": (text.vocab_size, d)}


def tensors(config: QwenConfig, dtype: np.dtype = BF16) -> Tensors:
    """Random tensors under their published names; norm scales are around one, so that activations stay tame."""
    random = np.random.default_rng(0)
    made = {}
    for name, shape in shapes(config).items():
        values = random.normal(0, 0.05, shape) + ("norm" in name or "ln_q" in name)
        made[name] = values.astype(np.float32).astype(dtype)
    return made


def today(name: str) -> str:
    """The name that today's transformers uses in memory for a published one."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def config_json(config: QwenConfig, nested: bool = False) -> dict:
    """A config.json, flat as published or nested as transformers saves it today."""
    text = {
        "vocab_size": config.text.vocab_size,
        "hidden_size": config.text.width,
        "intermediate_size": config.text.hidden,
        "num_hidden_layers": config.text.layers,
        "num_attention_heads": config.text.heads,
        "num_key_value_heads": config.text.kv_heads,
        "rms_norm_eps": 1e-6,
        "eos_token_id": config.eos_id,
        "bos_token_id": config.pad_id,
    }
    sections = list(config.text.mrope_sections)
    if nested:
        rope = {"mrope_section": sections, "rope_theta": 1e6, "rope_type": "default"}
        text = {"text_config": {**text, "rope_parameters": rope, "model_type": "qwen2_5_vl_text"}, "dtype": "float32"}
    else:
        text |= {
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": sections},
            "torch_dtype": "float32",
        }
    vision = config.vision
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **text,
        "image_token_id": config.image_id,
        "video_token_id": config.video_id,
        "vision_start_token_id": config.vision_start_id,
        "vision_end_token_id": config.vision_end_id,
        "tie_word_embeddings": config.text.tied,
        "vision_config": {
            "depth": vision.layers,
            "hidden_size": vision.width,
            "intermediate_size": vision.hidden,
            "num_heads": vision.heads,
            "out_hidden_size": vision.out_width,
            "window_size": vision.window,
            "fullatt_block_indexes": list(vision.full_layers),
            "in_chans": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def write_shards(folder: Path, made: Tensors, shards: int) -> None:
    """model.safetensors, or shards with an index, tensors dealt out in turn."""
    if shards == 1:
        save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: made[key] for key in list(made)[i::shards]}
        save_file(part, folder / name, metadata={"format": "pt", "made_by": "tests"})
        weight_map |= dict.fromkeys(part, name)
    size = sum(tensor.nbytes for tensor in made.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write(folder: Path, config: QwenConfig, made: Tensors, shards: int = 1, nested: bool = False) -> Path:
    """A whole folder: config, shards, tokenizer files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(config, nested), indent=2))
    (folder / "tokenizer.json").write_bytes(b'{"version": "1.0"}')
    (folder / "merges.txt").write_bytes("#version: 0.2\nĠ t\n".encode())
    write_shards(folder, made, shards)
    return folder
