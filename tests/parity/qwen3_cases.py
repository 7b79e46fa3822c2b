"""The tiny Qwen3-VL configurations and rows that the ladder is climbed with.

Heads wider than the width over their number, every order of the streams of positions, tables finer and coarser than the
pictures, features from the first, middle and last blocks, none, and for every block of the decoder.
"""

from dataclasses import dataclass
from typing import Any

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
                "rope_theta": 10000.0,
                "mrope_interleaved": True,
                "mrope_section": list(self.sections),
            },
            "bos_token_id": PAD,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
        }
        vision = {
            "depth": self.vision_layers,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
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
