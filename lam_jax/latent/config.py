"""Sizes of the latent-action modules (method.md section 2)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """Number of codes K, depth of each module, temperature of the straight-through choice."""

    codes: int = 128
    inverse_layers: int = 4
    policy_layers: int = 8
    merge_layers: int = 2
    tau: float = 2.0

    def __post_init__(self):
        for name in ("codes", "inverse_layers", "policy_layers", "merge_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"LatentConfig.{name} must be at least 1, got {getattr(self, name)}.")
        if self.tau <= 0:
            raise ValueError(f"LatentConfig.tau must be positive, got {self.tau}.")


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
