"""Named sizes. The Qwen ones are the published configurations; the others are for laptops, tests and benchmarks."""

from typing import Any

from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig

# Special tokens of the scenes tokenizer: the last seven of its 2048 ids (scenes/assets/base_model).
_SCENES_IDS: dict[str, Any] = {
    "pad_id": 2041,
    "eos_id": 2043,
    "vision_start_id": 2044,
    "vision_end_id": 2045,
    "image_id": 2046,
    "video_id": 2047,
}

_TINY = QwenConfig(
    text=TextConfig(2048, width=128, hidden=384, layers=6, heads=4, kv_heads=2, mrope_sections=(4, 6, 6)),
    vision=VisionConfig(128, hidden=256, layers=4, heads=4, full_layers=(1, 3), window=56, out_width=128),
    **_SCENES_IDS,
)
_SMALL = QwenConfig(
    text=TextConfig(2048, width=256, hidden=704, layers=6, heads=8, kv_heads=2, mrope_sections=(4, 6, 6)),
    vision=VisionConfig(128, hidden=352, layers=4, heads=4, full_layers=(1, 3), window=56, out_width=256),
    **_SCENES_IDS,
)
_MID = QwenConfig(
    text=TextConfig(8192, width=512, hidden=1408, layers=8, heads=8, kv_heads=2, mrope_sections=(8, 12, 12)),
    vision=VisionConfig(128, hidden=352, layers=4, heads=4, full_layers=(1, 3), window=112, out_width=512),
    pad_id=8185,
    eos_id=8187,
    vision_start_id=8188,
    vision_end_id=8189,
    image_id=8190,
    video_id=8191,
)


def _qwen_vision(out_width: int) -> VisionConfig:
    return VisionConfig(1280, 3420, layers=32, heads=16, full_layers=(7, 15, 23, 31), window=112, out_width=out_width)


_3B = QwenConfig(
    text=TextConfig(151936, width=2048, hidden=11008, layers=36, heads=16, kv_heads=2, mrope_sections=(16, 24, 24)),
    vision=_qwen_vision(2048),
    compute_dtype="bfloat16",
)
_7B = QwenConfig(
    text=TextConfig(
        152064, width=3584, hidden=18944, layers=28, heads=28, kv_heads=4, mrope_sections=(16, 24, 24), tied=False
    ),
    vision=_qwen_vision(3584),
    compute_dtype="bfloat16",
)

PRESETS: dict[str, QwenConfig] = {
    "tiny": _TINY,
    "small": _SMALL,
    "mid": _MID,
    "qwen2_5_vl_3b": _3B,
    "qwen2_5_vl_7b": _7B,
}
