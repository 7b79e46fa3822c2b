"""Hugging Face Qwen3-VL checkpoints made up for tests, written with the `safetensors` package and no code of ours.

Names and shapes are spelled out as transformers' modules have them, so that our names table is checked against them.
"""

import json
from pathlib import Path

import numpy as np

from lam_jax.models.qwen3_vl.config import Qwen3VLConfig
from tests.formats.made_checkpoint import BF16, Tensors, write_shards


def shapes(config: Qwen3VLConfig) -> dict[str, tuple[int, ...]]:
    """Published tensor names of a Qwen3-VL and their shapes."""
    text, vision = config.text, config.vision
    d, f, w, h = text.width, text.hidden, vision.width, vision.hidden
    q, kv, joined = text.heads * text.head_dim, text.kv_heads * text.head_dim, w * vision.merge**2
    found: dict[str, tuple[int, ...]] = {
        "model.visual.patch_embed.proj.weight": (w, 3, vision.temporal, vision.patch, vision.patch),
        "model.visual.patch_embed.proj.bias": (w,),
        "model.visual.pos_embed.weight": (vision.table_side**2, w),
        "model.language_model.embed_tokens.weight": (text.vocab_size, d),
        "model.language_model.norm.weight": (d,),
    }
    mergers = {"model.visual.merger": w}
    mergers |= {f"model.visual.deepstack_merger_list.{i}": joined for i in range(len(vision.deepstack_layers))}
    for name, normed in mergers.items():
        found |= {f"{name}.norm.weight": (normed,), f"{name}.norm.bias": (normed,)}
        found |= {f"{name}.linear_fc1.weight": (joined, joined), f"{name}.linear_fc1.bias": (joined,)}
        found |= {f"{name}.linear_fc2.weight": (d, joined), f"{name}.linear_fc2.bias": (d,)}
    for i in range(vision.layers):
        block = {f"norm{n}.{part}": (w,) for n in (1, 2) for part in ("weight", "bias")}
        block |= {"attn.qkv.weight": (3 * w, w), "attn.qkv.bias": (3 * w,)}
        block |= {"attn.proj.weight": (w, w), "attn.proj.bias": (w,)}
        block |= {"mlp.linear_fc1.weight": (h, w), "mlp.linear_fc1.bias": (h,)}
        block |= {"mlp.linear_fc2.weight": (w, h), "mlp.linear_fc2.bias": (w,)}
        found |= {f"model.visual.blocks.{i}.{name}": shape for name, shape in block.items()}
    for i in range(text.layers):
        block = {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
        block |= {f"self_attn.{name}_proj.weight": (out, d) for name, out in (("q", q), ("k", kv), ("v", kv))}
        block |= {f"self_attn.{name}_norm.weight": (text.head_dim,) for name in ("q", "k")}
        block |= {"self_attn.o_proj.weight": (d, q)}
        block |= {"mlp.gate_proj.weight": (f, d), "mlp.up_proj.weight": (f, d), "mlp.down_proj.weight": (d, f)}
        found |= {f"model.language_model.layers.{i}.{name}": shape for name, shape in block.items()}
    return found if text.tied else {**found, "lm_head.weight": (text.vocab_size, d)}


def tensors(config: Qwen3VLConfig, dtype: np.dtype = BF16, seed: int = 0) -> Tensors:
    """Random tensors under their published names; norm scales are around one, so that activations stay tame."""
    random = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes(config).items():
        values = random.normal(0, 0.05, shape) + ("norm" in name and name.endswith("weight"))
        made[name] = values.astype(np.float32).astype(dtype)
    return made


def config_json(config: Qwen3VLConfig, dtype: str = "bfloat16") -> dict:
    """A config.json as the published ones are."""
    text, vision = config.text, config.vision
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": config.image_id,
        "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": config.pad_id,
            "dtype": dtype,
            "eos_token_id": config.eos_id,
            "head_dim": text.head_dim,
            "hidden_act": "silu",
            "hidden_size": text.width,
            "initializer_range": 0.02,
            "intermediate_size": text.hidden,
            "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "num_key_value_heads": text.kv_heads,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": list(text.mrope_sections),
                "rope_type": "default",
            },
            "rope_theta": 5000000,
            "tie_word_embeddings": text.tied,
            "use_cache": True,
            "vocab_size": text.vocab_size,
        },
        "tie_word_embeddings": text.tied,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": config.video_id,
        "vision_config": {
            "deepstack_visual_indexes": list(vision.deepstack_layers),
            "depth": vision.layers,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision.width,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": vision.hidden,
            "model_type": "qwen3_vl",
            "num_heads": vision.heads,
            "num_position_embeddings": vision.table_side**2,
            "out_hidden_size": vision.out_width,
            "patch_size": vision.patch,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": vision.temporal,
        },
        "vision_end_token_id": config.vision_end_id,
        "vision_start_token_id": config.vision_start_id,
    }


def write(folder: Path, config: Qwen3VLConfig, made: Tensors, shards: int = 1, dtype: str = "bfloat16") -> Path:
    """A whole folder: config, shards, tokenizer files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(config, dtype), indent=2))
    (folder / "tokenizer.json").write_bytes(b'{"version": "1.0"}')
    write_shards(folder, made, shards)
    return folder
