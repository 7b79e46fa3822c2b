"""An independent torch implementation of the released code's stages, for golden sets of any size in the public format.

Written from the description of the method and of the golden sets upon transformers' decoder layers. With the public
set's weights, rows and noise it gives that set's numbers, most of them to the last bit. B rows, L length, K codes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLDecoderLayer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLRMSNorm,
)

TEXT = "model.language_model"


def bottleneck(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, width))


class Merge(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc_1, self.fc_2 = (nn.Linear(2 * width, hidden, bias=False) for _ in range(2))
        self.proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        both = torch.cat([x, code], dim=-1)
        return self.proj(F.silu(self.fc_1(both)) * self.fc_2(both))


@dataclass
class Rows:
    """ids, mask, labels [B, L] and positions [3, B, L]; pixels and grids of rows with images."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    positions: Tensor
    images: dict[str, Tensor]

    def withheld(self) -> "Rows":
        order = (self.mask.cumsum(1) - 1).masked_fill(self.mask == 0, 1)
        return Rows(self.ids, self.mask, self.labels, order[None].expand(3, -1, -1), {})


class Released:
    """Backbone and latent modules under the released names."""

    def __init__(self, settings: dict[str, Any], attention: str = "sdpa"):
        self.settings, ids = settings, settings["special_ids"]
        text, vision = (
            {k: v for k, v in settings[f"{part}_config"].items() if k != "dtype"} for part in ("text", "vision")
        )
        config = Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=ids["image"],
            video_token_id=ids["video"],
            vision_start_token_id=ids["vstart"],
            vision_end_token_id=ids["vend"],
            tie_word_embeddings=settings["tie_word_embeddings"],
        )
        config._attn_implementation = attention
        self.model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
        core, sizes, codes = self.model.model.language_model, config.text_config, settings["num_code"]
        width = sizes.hidden_size
        for name, depth in (("inverse", settings["num_inverse_layer"]), ("policy", settings["num_policy_layer"])):
            # Layer types are listed for the backbone's depth only; all are alike.
            layers = nn.ModuleList(Qwen2_5_VLDecoderLayer(sizes, 0) for _ in range(depth))
            setattr(core, f"{name}_layers", layers)
            setattr(core, f"{name}_norm", Qwen2_5_VLRMSNorm(width, sizes.rms_norm_eps))
            setattr(core, f"{name}_head", nn.Linear(width, codes, bias=False))
        core.action_code_book = nn.Linear(codes, width, bias=False)
        merges = (Merge(width, sizes.intermediate_size) for _ in range(settings["merge_layer_num"]))
        core.action_merge_layers = nn.ModuleList(merges)
        for name in ("Text2TV", "TV2Text"):
            setattr(core, f"{name}_mu", bottleneck(width))
            setattr(core, f"{name}_logvar", nn.Sequential(*bottleneck(width), nn.Tanh()))
        self.core = core.float()

    def load(self, weights: dict[str, np.ndarray]) -> None:
        state = {name.removeprefix("w/"): torch.from_numpy(value) for name, value in weights.items()}
        self.model.load_state_dict(state, strict=True)

    def states(self, rows: Rows) -> Tensor:
        kinds = (rows.ids == self.settings["special_ids"]["image"]).int()
        return self.model.model(
            input_ids=rows.ids,
            attention_mask=rows.mask,
            position_ids=rows.positions,
            mm_token_type_ids=kinds,
            **rows.images,
        ).last_hidden_state

    def codes(self, name: str, x: Tensor, rows: Rows) -> Tensor:
        length = x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()[None] & rows.mask.bool()[:, None, :]
        rotary = self.core.rotary_emb(x, rows.positions)
        for layer in getattr(self.core, f"{name}_layers"):
            x = layer(x, attention_mask=causal[:, None], position_embeddings=rotary)
        logits = getattr(self.core, f"{name}_head")(getattr(self.core, f"{name}_norm")(x))
        return torch.cat([logits[:, 1:], logits[:, -1:]], dim=1) if name == "inverse" else logits

    def read(self, x: Tensor, choice: Tensor, readout: str) -> Tensor:
        start, code = x, self.core.action_code_book(choice)
        for layer in self.core.action_merge_layers:
            block = layer(x, code)
            x = x + block
        return self.core.norm(x) - start.detach() if readout == "delta" else self.core.norm(block)

    def logits(self, out: Tensor) -> Tensor:
        return self.model.lm_head(out)

    def one_hot(self, index: Tensor) -> Tensor:
        return F.one_hot(index, self.settings["num_code"]).float()

    def inverse_pass(self, x: Tensor, rows: Rows, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.codes("inverse", x, rows)
        soft = torch.softmax((logits + noise) / self.settings["gumbel_tau"], dim=-1)
        choice = self.one_hot(soft.argmax(-1)) - soft.detach() + soft
        return logits, soft, self.read(x, choice, "delta")

    def mu(self, name: str, x: Tensor) -> Tensor:
        return getattr(self.core, f"{name}_mu")(x)

    def logvar(self, name: str, x: Tensor) -> Tensor:
        return getattr(self.core, f"{name}_logvar")(x)

    def nll(self, name: str, x: Tensor, target: Tensor, rows: Rows) -> Tensor:
        mu, logvar = self.mu(name, x), self.logvar(name, x)
        element = (mu - target.detach()) ** 2 * torch.exp(-logvar) + logvar
        return element.sum(-1)[rows.labels != -100].mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def negative_entropy(logits: Tensor, rows: Rows) -> Tensor:
    p = torch.softmax(logits, dim=-1)
    return (p * torch.log(p + 1e-8)).sum(-1)[rows.labels != -100].mean()


def cloning(logits: Tensor, target: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    keep = rows.labels != -100
    return F.cross_entropy(logits[keep], target[keep]), (logits.argmax(-1) == target)[keep].float().mean()


def write(folder: Path, name: str, settings: dict[str, Any], parts: dict[str, dict[str, Any]]) -> None:
    """Saves a set in the public format."""
    (folder / f"{name}_config.json").write_text(json.dumps(settings))
    for part, arrays in parts.items():
        plain = {key: value.detach().numpy() if isinstance(value, Tensor) else value for key, value in arrays.items()}
        np.savez_compressed(folder / f"{name}_{part}.npz", **plain)
