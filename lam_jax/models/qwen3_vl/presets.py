"""The published dense sizes by name."""

from lam_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig


def _vision(out_width: int) -> VisionConfig:
    """The smaller tower, of the 2B and 4B models."""
    return VisionConfig(1024, 4096, layers=24, heads=16, out_width=out_width, deepstack_layers=(5, 11, 17))


_2B = Qwen3VLConfig(
    text=TextConfig(151936, width=2048, hidden=6144, layers=28, heads=16, kv_heads=8),
    vision=_vision(2048),
    compute_dtype="bfloat16",
)
_4B = Qwen3VLConfig(
    text=TextConfig(151936, width=2560, hidden=9728, layers=36, heads=32, kv_heads=8),
    vision=_vision(2560),
    compute_dtype="bfloat16",
)
_8B = Qwen3VLConfig(
    text=TextConfig(151936, width=4096, hidden=12288, layers=36, heads=32, kv_heads=8, tied=False),
    vision=VisionConfig(1152, 4304, layers=27, heads=16, out_width=4096, deepstack_layers=(8, 16, 24)),
    compute_dtype="bfloat16",
)

PRESETS: dict[str, Qwen3VLConfig] = {"qwen3_vl_2b": _2B, "qwen3_vl_4b": _4B, "qwen3_vl_8b": _8B}
