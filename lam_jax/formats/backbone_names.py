"""Which checkpoint tensor fills which weight: one table per model, read by loading, export and the parity tests.

Names follow transformers' Qwen2.5-VL modules (`model.visual`, `model.language_model`, `lm_head`). Checkpoints on disk
may use the older prefixes (`visual.`, `model.`): `canonical` maps those.
"""

import dataclasses
from typing import Literal

from lam_jax.models.qwen2_5_vl.config import QwenConfig

# How a tensor is stored there against how we hold it: "same", "transposed" ([out, in] -> [in, out]) or "patch"
# (Conv3d [D, C, T, h, w] -> [C*T*h*w, D]).
Layout = Literal["same", "transposed", "patch"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One weight of ours and where it lives in a checkpoint.

    Attributes:
        path: dotted path of the field, e.g. "blocks.query.kernel".
        name: tensor name; "{layer}" stands for the index on the leading (stacked) dimension.
        layout: conversion of each tensor.
        layers: number of stacked tensors; 0 if the weight is not stacked.
    """

    path: str
    name: str
    layout: Layout = "same"
    layers: int = 0

    def names(self) -> list[str]:
        """All tensor names of this weight, in stacking order."""
        return [self.name.format(layer=i) for i in range(self.layers)] if self.layers else [self.name]


def linear(path: str, name: str, layers: int = 0, bias: bool = False) -> list[Entry]:
    """Entries of a `Linear`."""
    entries = [Entry(f"{path}.kernel", f"{name}.weight", "transposed", layers)]
    return entries + ([Entry(f"{path}.bias", f"{name}.bias", "same", layers)] if bias else [])


def norm(path: str, name: str, layers: int = 0) -> list[Entry]:
    """Entry of an `RMSNorm`."""
    return [Entry(f"{path}.scale", f"{name}.weight", "same", layers)]


def decoder_blocks(path: str, name: str, layers: int) -> list[Entry]:
    """Entries of a stack of `DecoderBlock`s."""
    at = f"{name}.{{layer}}"
    entries: list[Entry] = []
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        entries += linear(f"{path}.{ours}", f"{at}.self_attn.{theirs}", layers, bias=True)
    entries += linear(f"{path}.output", f"{at}.self_attn.o_proj", layers)
    for ours in ("gate", "up", "down"):
        entries += linear(f"{path}.mlp.{ours}", f"{at}.mlp.{ours}_proj", layers)
    entries += norm(f"{path}.attention_norm", f"{at}.input_layernorm", layers)
    entries += norm(f"{path}.mlp_norm", f"{at}.post_attention_layernorm", layers)
    return entries


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


def backbone(config: QwenConfig) -> list[Entry]:
    """Entries of `QwenVL`."""
    entries = _vision(config)
    entries += [Entry("embedding", "model.language_model.embed_tokens.weight")]
    entries += decoder_blocks("blocks", "model.language_model.layers", config.text.layers)
    entries += norm("norm", "model.language_model.norm")
    return entries + ([] if config.text.tied else [Entry("lm_head", "lm_head.weight")])


def canonical(name: str) -> str:
    """The name in today's transformers of a tensor in a published Qwen2.5-VL file."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name
