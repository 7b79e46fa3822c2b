"""Which checkpoint tensor fills which weight: what every family's table of names is made of.

Names follow transformers' modules (`model.visual`, `model.language_model`, `lm_head`).
"""

import dataclasses
from typing import Literal

from lam_jax.models.config import TextSizes

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


def layer_norm(path: str, name: str, layers: int = 0) -> list[Entry]:
    """Entries of a `LayerNorm`."""
    return [*norm(path, name, layers), Entry(f"{path}.bias", f"{name}.bias", "same", layers)]


def decoder_blocks(path: str, name: str, layers: int, text: TextSizes) -> list[Entry]:
    """Entries of a stack of `DecoderBlock`s of a family's kind."""
    at, kind = f"{name}.{{layer}}", text.block_sizes
    entries: list[Entry] = []
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        entries += linear(f"{path}.{ours}", f"{at}.self_attn.{theirs}", layers, bias=kind.get("bias", True))
    entries += linear(f"{path}.output", f"{at}.self_attn.o_proj", layers)
    if kind.get("head_norms", False):
        entries += norm(f"{path}.query_norm", f"{at}.self_attn.q_norm", layers)
        entries += norm(f"{path}.key_norm", f"{at}.self_attn.k_norm", layers)
    for ours in ("gate", "up", "down"):
        entries += linear(f"{path}.mlp.{ours}", f"{at}.mlp.{ours}_proj", layers)
    entries += norm(f"{path}.attention_norm", f"{at}.input_layernorm", layers)
    entries += norm(f"{path}.mlp_norm", f"{at}.post_attention_layernorm", layers)
    return entries


def decoder(text: TextSizes) -> list[Entry]:
    """Entries of a backbone but its vision tower."""
    entries = [Entry("embedding", "model.language_model.embed_tokens.weight")]
    entries += decoder_blocks("blocks", "model.language_model.layers", text.layers, text)
    entries += norm("norm", "model.language_model.norm")
    return entries + ([] if text.tied else [Entry("lm_head", "lm_head.weight")])
