"""Scores a base model on held-out scenes and writes its card beside it.

    .venv/bin/python -m experiments.base_scores --model runs/base/model --metrics runs/base/metrics.jsonl --install

Scenes are those of the split "caption_test", which pre-training never sees. With `--install` the model folder, the
scores and the card become the package's base model.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import tyro

from experiments.base_model import Config as Recipe
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collator, CollatorConfig
from lam_jax.data.readers import pretraining_examples
from lam_jax.data.schemas import Example, Where
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.models.processor import ImageSettings
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.parallel import TRAIN, make_mesh
from lam_jax.runs.metrics import read_metrics
from lam_jax.scenes.caption_scores import CaptionScores, caption_scores
from lam_jax.scenes.rows import caption_test
from lam_jax.scenes.source import BASE_MODEL, CHAT_LENGTHS, IMAGE_SIZE, PROMPT_LENGTHS
from lam_jax.scenes.tokenizer import load_tokenizer

CARD = """# The demo's base model

A Qwen2.5-VL of 2.6 million parameters (preset `tiny`), pre-trained from random weights on the built-in data set with

    .venv/bin/python -m experiments.base_model --out runs/base

Seed {seed}; {align_steps} steps of {align_rows} scenes on the vision tower alone, then {chat_steps} steps of
{paired_rows} image-text and {text_rows} text-only rows on all weights, then {bind_steps} steps of
{bind_paired_rows} and {bind_text_rows} with an extra loss on the objects' names. All rows come from the generator.
The phases were run one after the other, each from the float16 weights that the one before had stored.
Stored in float16 under the names of a Hugging Face checkpoint; it computes in float32. Its training steps took
{hours:.2f} hours on 2 CPU cores that were busy with other work as well.

Scores on {scenes} held-out scenes (split `caption_test`; `.venv/bin/python -m experiments.base_scores`):

| score | value |
|---|---|
| object-name tokens that are the first choice, teacher-forced | {name_accuracy:.3f} |
| greedy captions that name every object and invent none | {exact_captions:.3f} |
| cross-entropy of reference captions, nats a token | {cross_entropy:.3f} |

It knows the 112 objects, 12 backgrounds and the grammar of the data set and nothing else.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """What to score."""

    model: Path = BASE_MODEL
    metrics: Path | None = None
    scenes: int = 256
    install: bool = False


def score(model: Path, scenes: int) -> CaptionScores:
    """Scores of the model in a folder on the first held-out scenes."""
    tokenizer = load_tokenizer()
    encoder = ChatEncoder(tokenizer, PRESETS["tiny"])
    image = ImageSettings(size=IMAGE_SIZE)
    train = Collator(encoder, CollatorConfig((CHAT_LENGTHS["paired"],), image=image))
    prompt = Collator(encoder, CollatorConfig((PROMPT_LENGTHS["paired"],), kind="prompt", padding="left", image=image))
    backbone = load_backbone(model, make_mesh(), TRAIN, np.float32)
    return caption_scores(backbone, held_out(scenes), train, prompt, tokenizer)


def held_out(scenes: int) -> list[Example]:
    """Held-out scenes with plain caption prompts."""
    return [pretraining_examples(caption_test(i), Where("caption_test", i))[0] for i in range(scenes)]


def main(config: Config) -> None:
    found = score(config.model, config.scenes)
    print(json.dumps(dataclasses.asdict(found), indent=1))
    if not config.install:
        return
    if config.metrics is None:
        raise SystemExit("--install needs --metrics, the metrics.jsonl of the run, for the card.")
    records = read_metrics(config.metrics)
    seconds = sum(r.get("step_s", 0.0) for r in records) * 20  # every 20th step is recorded
    recipe = dataclasses.asdict(Recipe(Path("runs/base")))
    if BASE_MODEL.exists():
        shutil.rmtree(BASE_MODEL)
    shutil.copytree(config.model, BASE_MODEL)
    card = CARD.format(hours=seconds / 3600, **recipe, **dataclasses.asdict(found))
    (BASE_MODEL / "README.md").write_text(card, encoding="utf-8")
    (BASE_MODEL / "scores.json").write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Config))
