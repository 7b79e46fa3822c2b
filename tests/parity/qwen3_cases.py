"""The tiny Qwen3-VL configurations and rows that the ladder is climbed with.

Heads wider than the width over their number, every order of the streams of positions, tables finer and coarser than the
pictures, features from the first, middle and last blocks, none, and for every block of the decoder.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.parity.ladder_cases import END, EOS, IMAGE, PAD, START, VIDEO, VOCAB, LadderCase


@dataclass(frozen=True)
class Qwen3Case(LadderCase):
    """Sizes of a Qwen3-VL; rows as in `LadderCase`. `full_layers` and `window` say nothing here."""

    model_type: str = "qwen3_vl"
    head_dim: int = 16
    patch: int = 4
    table_side: int = 5
    deepstack: tuple[int, ...] = (0, 2)
    vision_layers: int = 4
    vision_width: int = 16
    vision_heads: int = 2
    theta: float = 10000.0

    @property
    def patch_values(self) -> int:
        return 6 * self.patch**2

    @property
    def hf_config(self) -> dict[str, Any]:
        """Arguments of transformers' Qwen3VLConfig."""
        text = {
            "vocab_size": VOCAB,
            "hidden_size": self.width,
            "intermediate_size": 48,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": 128,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.theta,
                "mrope_interleaved": True,
                "mrope_section": list(self.sections),
            },
            "bos_token_id": PAD,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
        }
        vision = {
            "depth": self.vision_layers,
            "hidden_size": self.vision_width,
            "intermediate_size": 24,
            "num_heads": self.vision_heads,
            "out_hidden_size": self.width,
            "num_position_embeddings": self.table_side**2,
            "deepstack_visual_indexes": list(self.deepstack),
            "patch_size": self.patch,
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


QWEN3_CASES = (
    Qwen3Case(
        "qwen3_images_left",
        rows=((3, (1, 6, 4), 2, (1, 4, 10), 6), (4, (1, 2, 4), 7), (12,)),
        padding="left",
        heads=4,
        kv_heads=2,
        tied=True,
        full_layers=(),
        window=0,
        sections=(4, 2, 2),
        layers=3,
        seed=20,
    ),
    Qwen3Case(
        "qwen3_images_right",
        rows=(((1, 6, 8), 5), (9,), (2, (1, 4, 4), (1, 2, 6), 3)),
        padding="right",
        heads=2,
        kv_heads=2,
        tied=False,
        full_layers=(),
        window=0,
        sections=(2, 3, 3),
        deepstack=(1, 3),
        table_side=12,
        seed=21,
    ),
    Qwen3Case(
        "qwen3_text_only",
        rows=((11,), (4,), (7,)),
        padding="left",
        heads=4,
        kv_heads=1,
        tied=False,
        full_layers=(),
        window=0,
        sections=(1, 2, 1),
        head_dim=8,
        deepstack=(),
        vision_layers=1,
        seed=22,
    ),
)


def drawn_case(seed: int) -> Qwen3Case:
    """Sizes, rows, padding and pictures that nobody chose; the vision tower's heads have a multiple of 4 numbers."""
    rng = np.random.default_rng(seed)

    def one(*choices: int) -> int:
        return int(rng.choice(choices))

    kv_heads, head_dim = one(1, 2, 3), one(8, 12, 16, 20)
    height, width = (int(x) for x in rng.integers(0, head_dim // 4, 2))
    layers, vision_layers = one(2, 3, 4), one(1, 2, 4, 5)
    features = int(rng.integers(0, min(layers, vision_layers) + 1))
    rows = []
    for _ in range(one(2, 3, 4)):
        pieces: list[Any] = [int(rng.integers(1, 6))]
        for _ in range(one(0, 1, 2)):
            pieces += [(1, 2 * int(rng.integers(1, 6)), 2 * int(rng.integers(1, 6))), int(rng.integers(1, 4))]
        rows.append((*pieces, int(rng.integers(4, 7))))
    vision_heads = one(1, 2, 3)
    return Qwen3Case(
        f"qwen3_drawn_{seed}",
        rows=tuple(rows),
        padding=str(rng.choice(["left", "right"])),
        heads=kv_heads * one(1, 2, 3),
        kv_heads=kv_heads,
        tied=bool(rng.integers(2)),
        full_layers=(),
        window=0,
        sections=(head_dim // 2 - height - width, height, width),
        width=one(24, 32, 40),
        layers=layers,
        seed=1000 + seed,
        head_dim=head_dim,
        patch=one(2, 4, 6, 16),
        table_side=one(2, 3, 7, 11, 48),
        deepstack=tuple(sorted(int(i) for i in rng.choice(vision_layers, features, replace=False))),
        vision_layers=vision_layers,
        vision_width=vision_heads * one(4, 8, 12),
        vision_heads=vision_heads,
        theta=float(rng.choice([1e4, 5e5, 5e6])),
    )
