"""Folders with agents made up for tests: a random Hugging Face Qwen2.5-VL with a tokenizer, one with latent modules."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from lam_jax.formats.agent_folder import save_checkpoint
from lam_jax.latent.config import LatentConfig
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from tests.formats import made_checkpoint
from tests.tiny import draw_agent

LATENT = LatentConfig(codes=8, inverse_layers=1, policy_layers=2, merge_layers=2)
PIXELS = {"min_pixels": 784, "max_pixels": 784 * 12}


def small(config: QwenConfig) -> QwenConfig:
    """Two layers each, so that little has to be compiled."""
    text = dataclasses.replace(config.text, layers=2)
    vision = dataclasses.replace(config.vision, layers=2, full_layers=(1,))
    return dataclasses.replace(config, text=text, vision=vision)


def hugging_face(folder: Path, config: QwenConfig, tokenizer) -> Path:
    """A folder as transformers has it, with random weights."""
    made_checkpoint.write(folder, config, made_checkpoint.tensors(config, np.dtype(np.float32)))
    for name in ("tokenizer.json", "merges.txt"):
        (folder / name).unlink()
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder


def latent(folder: Path, config: QwenConfig, tokenizer_files: Path) -> Path:
    """A folder of ours with random backbone and latent modules."""
    agent = draw_agent(config, LATENT)
    files = {path.name: path for path in tokenizer_files.iterdir() if path.suffix in (".json", ".jinja")}
    save_checkpoint(folder, agent.backbone, agent.latent, files=files)
    return folder


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Random colours."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def write_rows(file: Path, count: int, reference: bool = True) -> Path:
    """A rows file with a picture for every second row; .json or .jsonl."""
    rows = []
    for i in range(count):
        chat = [{"role": "user", "content": "What is in the picture? " + "How many cats? " * (i % 3)}]
        row = {"id": f"row{i}", "messages": chat}
        if reference:
            chat.append({"role": "assistant", "content": "There are two cats."})
        if i % 2:
            picture(56 + 28 * (i % 3), 84, i).save(file.parent / f"{i}.png")
            row["image"] = f"{i}.png"
        rows.append(row)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_text(lines if file.suffix == ".jsonl" else json.dumps(rows))
    return file
