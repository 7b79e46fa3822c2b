"""The tiny Qwen2.5-VL configurations and rows that the ladder is climbed with.

Text-only rows, rows with one image and with two of different grids, odd window remainders, both paddings, grouped and
ungrouped attention, tied and untied heads.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

VOCAB, PAD, EOS, START, END, IMAGE, VIDEO = 96, 90, 91, 92, 93, 94, 95
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class LadderCase:
    """Sizes, and rows given as pieces: a number is that many text tokens, a grid is an image."""

    name: str
    rows: tuple[tuple[int | Grid, ...], ...]
    padding: str
    heads: int
    kv_heads: int
    tied: bool
    full_layers: tuple[int, ...]
    window: int
    sections: tuple[int, int, int]
    width: int = 32
    layers: int = 2
    seed: int = 0
    model_type: str = "qwen2_5_vl"

    @property
    def patch_values(self) -> int:
        """Numbers in a flattened patch."""
        return 1176

    @property
    def hf_config(self) -> dict[str, Any]:
        """Arguments of transformers' Qwen2_5_VLConfig."""
        text = {
            "vocab_size": VOCAB,
            "hidden_size": self.width,
            "intermediate_size": 48,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 128,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": list(self.sections),
            },
            "bos_token_id": PAD,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
        }
        vision = {
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "window_size": self.window,
            "fullatt_block_indexes": list(self.full_layers),
            "out_hidden_size": self.width,
        }
        return {
            "text_config": text,
            "vision_config": vision,
            "tie_word_embeddings": self.tied,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": START,
            "vision_end_token_id": END,
        }

    @property
    def grids(self) -> list[list[Grid]]:
        """Images of each row."""
        return [[piece for piece in row if isinstance(piece, tuple)] for row in self.rows]

    def inputs(self) -> dict[str, np.ndarray]:
        """tokens and mask [B, L], and pixels [patches, patch_values] of all images in order."""
        rng = np.random.default_rng(self.seed)
        rows = []
        for row in self.rows:
            tokens: list[int] = []
            for piece in row:
                if isinstance(piece, tuple):
                    tokens += [START, *[IMAGE] * (piece[1] * piece[2] // 4), END]
                else:
                    tokens += rng.integers(0, PAD, piece).tolist()
            rows.append(tokens)
        length = max(map(len, rows))
        tokens, mask = np.full((len(rows), length), PAD), np.zeros((len(rows), length), bool)
        for index, row in enumerate(rows):
            place = slice(length - len(row), length) if self.padding == "left" else slice(len(row))
            tokens[index, place], mask[index, place] = row, True
        patches = sum(h * w for row in self.grids for _, h, w in row)
        # Few levels, so that the committed files stay small.
        pixels = rng.integers(-16, 17, (patches, self.patch_values)).astype(np.float32) / 8
        return {"tokens": tokens, "mask": mask, "pixels": pixels}


CASES = (
    LadderCase(
        "images_left",
        rows=((3, (1, 6, 4), 2, (1, 4, 10), 6), (4, (1, 2, 4), 7), (12,)),
        padding="left",
        heads=4,
        kv_heads=2,
        tied=True,
        full_layers=(1,),
        window=56,
        sections=(1, 1, 2),
    ),
    LadderCase(
        "images_right",
        rows=(((1, 6, 8), 5), (9,), (2, (1, 4, 4), (1, 2, 6), 3)),
        padding="right",
        heads=2,
        kv_heads=2,
        tied=False,
        full_layers=(0, 2),
        window=56,
        sections=(2, 3, 3),
        seed=1,
    ),
    LadderCase(
        "text_only",
        rows=((11,), (4,), (7,)),
        padding="left",
        heads=4,
        kv_heads=1,
        tied=False,
        full_layers=(),
        window=112,
        sections=(2, 1, 1),
        layers=3,
        seed=2,
    ),
)
