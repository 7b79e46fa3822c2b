"""Sizes of a Qwen2.5-VL model. Frozen, self-validating; everything else is derived."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lam_jax.models.config import BackboneConfig, Grid, TextSizes, VisionSizes, positive
from lam_jax.models.positions import patch_places


@dataclasses.dataclass(frozen=True)
class TextConfig(TextSizes):
    """The text decoder (Qwen2.5, with M-RoPE)."""

    vocab_size: int
    width: int
    hidden: int  # feed-forward
    layers: int
    heads: int
    kv_heads: int
    mrope_sections: tuple[int, int, int]
    rope_theta: float = 1e6
    norm_epsilon: float = 1e-6
    tied: bool = True

    def __post_init__(self):
        positive(self, "width", "heads")
        if self.width % self.heads:
            raise ValueError(f"TextConfig.width {self.width} must be a multiple of heads {self.heads}.")
        self.check()

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class VisionConfig(VisionSizes):
    """The vision tower: windowed attention except in `full_layers`, then a merger of `merge` x `merge` patches."""

    width: int
    hidden: int
    layers: int
    heads: int
    full_layers: tuple[int, ...]
    window: int  # pixels
    out_width: int
    patch: int = 14
    temporal: int = 2
    merge: int = 2
    channels: int = 3

    def __post_init__(self):
        positive(self, "width", "hidden", "layers", "heads", "window", "out_width", "patch", "temporal", "merge")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(f"VisionConfig.width {self.width} must give each of {self.heads} heads a multiple of 4.")
        if self.window % (self.patch * self.merge):
            raise ValueError(
                f"VisionConfig.window {self.window} must be a multiple of {self.patch * self.merge} pixels."
            )
        if any(not 0 <= i < self.layers for i in self.full_layers):
            raise ValueError(f"VisionConfig.full_layers {self.full_layers} must lie in [0, {self.layers}).")

    @property
    def window_patches(self) -> int:
        """Patches of a full attention window."""
        return (self.window // self.patch) ** 2

    def picture(self, grid: Grid) -> Mapping[str, np.ndarray]:
        """`patch_hw` [P, 2] and `window_slots` [W, S] of one picture."""
        _, h, w = grid
        patch_hw = patch_places(h, w, self.merge)
        side = self.window // self.patch
        window = (patch_hw[:, 0] // side) * -(-w // side) + patch_hw[:, 1] // side
        names = np.unique(window)
        slots = np.full((len(names), self.window_patches), -1, np.int32)
        for i, name in enumerate(names):
            members = np.flatnonzero(window == name)
            slots[i, : len(members)] = members
        return {"patch_hw": patch_hw, "window_slots": slots}

    def weights_of(self, patches: int) -> int:
        """Multiplications with weights that a picture of so many patches takes."""
        joined = self.width * self.merge_patches
        weights = patches * self.patch_size * self.width
        weights += self.layers * patches * (4 * self.width**2 + 3 * self.width * self.hidden)
        return weights + patches // self.merge_patches * joined * (joined + self.out_width)

    def pairs_of(self, height: int, width: int) -> int:
        """(query, key) pairs of all blocks in a picture of height x width patches."""
        side = self.window // self.patch
        sides = [[min(side, total - start) for start in range(0, total, side)] for total in (height, width)]
        windowed = sum((a * b) ** 2 for a in sides[0] for b in sides[1])
        full = len(self.full_layers)
        return full * (height * width) ** 2 + (self.layers - full) * windowed


@dataclasses.dataclass(frozen=True)
class QwenConfig(BackboneConfig):
    """A whole Qwen2.5-VL; fields as in `BackboneConfig`."""

    text: TextConfig
    vision: VisionConfig
    pad_id: int = 151643
    eos_id: int = 151645
    vision_start_id: int = 151652
    vision_end_id: int = 151653
    image_id: int = 151655
    video_id: int = 151656
    compute_dtype: str = "float32"
    other_eos_ids: tuple[int, ...] = ()

    def __post_init__(self):
        self.check()
