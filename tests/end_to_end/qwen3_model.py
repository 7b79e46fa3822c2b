"""A tiny random Qwen3-VL as a Hugging Face folder, with the built-in tokenizer: what users would give as `--model`."""

import json
import shutil
from pathlib import Path

import numpy as np

import lam_jax
from lam_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig
from tests.formats import made_qwen3 as made

ASSETS = Path(lam_jax.__file__).parent / "scenes" / "assets" / "base_model"
CONFIG = Qwen3VLConfig(
    TextConfig(2048, 32, 48, layers=3, heads=4, kv_heads=2, mrope_sections=(4, 2, 2), head_dim=16),
    VisionConfig(16, 24, layers=3, heads=2, out_width=32, table_side=5, deepstack_layers=(0, 2)),
    pad_id=2041,
    eos_id=2043,
    vision_start_id=2044,
    vision_end_id=2045,
    image_id=2046,
    video_id=2047,
)
IMAGE = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    "processor_class": "Qwen3VLProcessor",
}


def write_model(folder: Path) -> Path:
    """The folder, float32."""
    made.write(folder, CONFIG, made.tensors(CONFIG, np.dtype(np.float32)), dtype="float32")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(ASSETS / name, folder / name)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE))
    return folder
