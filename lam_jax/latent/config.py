"""Sizes of the latent-action modules (method.md section 2)."""

import dataclasses
from typing import Literal, get_args

InverseReads = Literal["states", "tokens"]


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """Sizes of the latent modules, and what inverse dynamics reads.

    Attributes:
        codes: K, rows of the codebook.
        inverse_layers, policy_layers, merge_layers: depth of each module.
        tau: temperature of the straight-through choice.
        inverse_reads: at each position the state, as in the paper; or "tokens": with it the embedding of the token
            that stands there, scaled to the state's size and added. The code of a token then has the token itself,
            where a state of a late block may have kept little of it (divergence.md).
    """

    codes: int = 128
    inverse_layers: int = 4
    policy_layers: int = 8
    merge_layers: int = 2
    tau: float = 2.0
    inverse_reads: InverseReads = "states"

    def __post_init__(self):
        for name in ("codes", "inverse_layers", "policy_layers", "merge_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"LatentConfig.{name} must be at least 1, got {getattr(self, name)}.")
        if self.tau <= 0:
            raise ValueError(f"LatentConfig.tau must be positive, got {self.tau}.")
        if self.inverse_reads not in get_args(InverseReads):
            known = " or ".join(map(repr, get_args(InverseReads)))
            raise ValueError(f"LatentConfig.inverse_reads is {self.inverse_reads!r}, expected {known}.")


LATENT_PRESETS: dict[str, LatentConfig] = {
    "tiny": LatentConfig(codes=32, inverse_layers=2, policy_layers=3, merge_layers=2),
    "small": LatentConfig(codes=64, inverse_layers=2, policy_layers=4, merge_layers=2),
    "mid": LatentConfig(),
    "qwen2_5_vl_3b": LatentConfig(),
    "qwen2_5_vl_7b": LatentConfig(),
    "qwen3_vl_2b": LatentConfig(),
    "qwen3_vl_4b": LatentConfig(),
    "qwen3_vl_8b": LatentConfig(),
}
