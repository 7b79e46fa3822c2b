"""Sizes of a Qwen3-VL model. Frozen, self-validating; everything else is derived."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lam_jax.models.config import BackboneConfig, Grid, TextSizes, VisionSizes, positive
from lam_jax.models.positions import patch_places


@dataclasses.dataclass(frozen=True)
class TextConfig(TextSizes):
    """The text decoder (Qwen3, with interleaved M-RoPE)."""

    vocab_size: int
    width: int
    hidden: int  # feed-forward
    layers: int
    heads: int
    kv_heads: int
    mrope_sections: tuple[int, int, int] = (24, 20, 20)
    head_dim: int = 128
    rope_theta: float = 5e6
    norm_epsilon: float = 1e-6
    tied: bool = True

    def __post_init__(self):
        positive(self, "head_dim")
        self.check()

    @property
    def block_sizes(self) -> dict[str, Any]:
        """Arguments of `DecoderBlock.spec`."""
        return {**super().block_sizes, "bias": False, "head_norms": True}


@dataclasses.dataclass(frozen=True)
class VisionConfig(VisionSizes):
    """The vision tower: every block attends to the whole picture, whose places a learned table and rotations tell.

    Attributes:
        table_side: rows and columns of the learned table of positions.
        deepstack_layers: blocks whose states become features for the text decoder's first blocks, in that order.
    """

    width: int
    hidden: int
    layers: int
    heads: int
    out_width: int
    table_side: int = 48
    deepstack_layers: tuple[int, ...] = ()
    patch: int = 16
    temporal: int = 2
    merge: int = 2
    channels: int = 3

    def __post_init__(self):
        positive(self, "width", "hidden", "layers", "heads", "out_width", "table_side", "patch", "temporal", "merge")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(f"VisionConfig.width {self.width} must give each of {self.heads} heads a multiple of 4.")
        layers = self.deepstack_layers
        if any(not 0 <= i < self.layers for i in layers) or list(layers) != sorted(set(layers)):
            raise ValueError(
                f"VisionConfig.deepstack_layers {layers} must be increasing numbers of the {self.layers} blocks."
            )

    def picture(self, grid: Grid) -> Mapping[str, np.ndarray]:
        """`patch_hw` [P, 2], and `table_index` and `table_weight` [P, 4]: entries of the table of positions.

        The table is laid over the picture, corner on corner, and each patch takes the four entries around it, weighted
        by how near they are.
        """
        _, h, w = grid
        places = patch_places(h, w, self.merge)
        (row, row_next, row_share), (column, column_next, column_share) = (
            _around(places[:, axis], length, self.table_side) for axis, length in enumerate((h, w))
        )
        side = self.table_side
        index = [row * side + column, row * side + column_next, row_next * side + column, row_next * side + column_next]
        shares = [
            (1 - row_share) * (1 - column_share),
            (1 - row_share) * column_share,
            row_share * (1 - column_share),
            row_share * column_share,
        ]
        return {
            "patch_hw": places,
            "table_index": np.stack(index, axis=-1).astype(np.int32),
            "table_weight": np.stack(shares, axis=-1).astype(np.float32),
        }

    def weights_of(self, patches: int) -> int:
        """Multiplications with weights that a picture of so many patches takes."""
        joined = self.width * self.merge_patches
        weights = patches * self.patch_size * self.width
        weights += self.layers * patches * (4 * self.width**2 + 2 * self.width * self.hidden)
        mergers = 1 + len(self.deepstack_layers)
        return weights + mergers * (patches // self.merge_patches) * joined * (joined + self.out_width)

    def pairs_of(self, height: int, width: int) -> int:
        """(query, key) pairs of all blocks in a picture of height x width patches."""
        return self.layers * (height * width) ** 2


def _around(places: np.ndarray, length: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The table's entries before and after each place along an axis, and the share of the latter."""
    exact = places.astype(np.float32) * np.float32(side - 1) / np.float32(max(1, length - 1))
    before = np.minimum(np.floor(exact).astype(np.int64), side - 1)
    return before, np.minimum(before + 1, side - 1), exact - before.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Qwen3VLConfig(BackboneConfig):
    """A whole Qwen3-VL; fields as in `BackboneConfig`."""

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
        if len(self.vision.deepstack_layers) > self.text.layers:
            raise ValueError(
                f"VisionConfig.deepstack_layers {self.vision.deepstack_layers}: found more than the {self.text.layers} "
                "blocks of the text decoder, which get one's features each."
            )


def table_side(entries: int) -> int:
    """Rows and columns of a table of positions with so many entries.

    Raises:
        ValueError: no square.
    """
    side = math.isqrt(entries)
    if side * side != entries:
        raise ValueError(
            f"num_position_embeddings is {entries}, expected a square: the table is one of rows and columns."
        )
    return side
