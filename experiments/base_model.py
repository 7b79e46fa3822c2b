"""Pre-trains the tiny vision-language model that ships with the package, as Qwen2.5-VL is pre-trained for a real run.

    .venv/bin/python -m experiments.base_model --out runs/base

Phase `align` teaches the vision tower alone: every image token must tell which object (or background) its 28 x 28
pixel cell shows, through a linear head that is thrown away afterwards. Phase `chat` trains all weights on captions,
questions and text-only dialogues, next-token prediction on every position, with such a head as an auxiliary loss. Rows
are drawn fresh from the grammar (split names "paired" and "text_only"), so none is seen twice.

Writes OUT/model (Hugging Face folder) and OUT/metrics.jsonl; `experiments.base_scores` scores it and writes the card.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collated, Collator, CollatorConfig
from lam_jax.data.loader import Loader, LoaderConfig
from lam_jax.data.readers import pretraining_examples
from lam_jax.data.scenes.rows import paired, text_only
from lam_jax.data.scenes.tokenizer import FOLDER, load_tokenizer
from lam_jax.data.schemas import Example, Where
from lam_jax.losses import next_token, target_mask
from lam_jax.nn.layers import Linear
from lam_jax.nn.weight import materialize
from lam_jax.parallel import TRAIN, make_mesh
from lam_jax.qwen.inputs import Batch
from lam_jax.qwen.load import load_backbone
from lam_jax.qwen.model import QwenVL
from lam_jax.qwen.presets import PRESETS
from lam_jax.qwen.processor import ImageSettings
from lam_jax.qwen.save import save_backbone
from lam_jax.train.loop import fit
from lam_jax.train.metrics import MetricsWriter
from lam_jax.train.optimiser import Optimiser, OptimiserConfig, make_optimiser
from lam_jax.train.progress import Progress
from lam_jax.train.state import TrainState

HEIGHT, WIDTH, CELL = 84, 112, 28
AUXILIARY_WEIGHT = 0.3


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the pre-training run."""

    out: Path
    preset: str = "tiny"
    seed: int = 0
    align_steps: int = 700
    align_rows: int = 64
    align_lr: float = 1.5e-3
    chat_steps: int = 1800
    paired_rows: int = 32
    text_rows: int = 16
    chat_lr: float = 2e-3
    paired_length: int = 80
    text_length: int = 120


class Generated:
    """A split of the grammar as a random-access list of examples, made when asked for."""

    def __init__(self, make: Callable[[int], dict[str, Any]], name: str, rows: int):
        self.make, self.name, self.rows = make, name, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Example:
        return pretraining_examples(self.make(index), Where(self.name, index))[0]


def cell_names(example: Example) -> list[str]:
    """What each cell of the scene shows, row by row: the object that covers most of it, or the background."""
    facts = example.facts or {}
    cells = []
    for top in range(0, HEIGHT, CELL):
        for left in range(0, WIDTH, CELL):
            best, name = 0.15 * CELL * CELL, facts["background"]
            for thing in facts["objects"]:
                half = thing["size"] / 2
                wide = min(left + CELL, thing["x"] + half) - max(left, thing["x"] - half)
                high = min(top + CELL, thing["y"] + half) - max(top, thing["y"] - half)
                if wide > 0 and high > 0 and wide * high > best:
                    best, name = wide * high, thing["name"]
            cells.append(name)
    return cells


class CellLabels:
    """Token ids of `cell_names`; every name is one token behind a space."""

    def __init__(self, tokenizer: Any):
        self.tokenizer, self.ids = tokenizer, {}

    def __call__(self, collated: Collated) -> np.ndarray:
        return np.array([[self._id(name) for name in cell_names(e)] for e in collated.examples], np.int32)

    def _id(self, name: str) -> int:
        if name not in self.ids:
            (self.ids[name],) = self.tokenizer.encode(f" {name}", add_special_tokens=False)
        return self.ids[name]


def cell_loss(model: QwenVL, head: Linear, seen: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and accuracy of the cells' names from the image tokens [B, M, D]."""
    logits = head(seen).astype(jnp.float32)
    logps = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    return -jnp.mean(logps), jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))


def align_loss(params: tuple[QwenVL, Linear], batch: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Vision tower and head only."""
    model, head = params
    loss, accuracy = cell_loss(model, head, model.vision(batch["images"], model.config.dtype), batch["labels"])
    return loss, {"loss": loss, "cell_accuracy": accuracy}


def language_loss(model: QwenVL, batch: Batch) -> jax.Array:
    """Next-token cross-entropy over all valid positions."""
    return next_token(model.states(batch), model.embedding, batch.tokens, target_mask(batch.valid, batch.mask)).value


def chat_loss(params: tuple[QwenVL, Linear], batch: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Paired rows, text-only rows and the auxiliary cell loss."""
    model, head = params
    shown: Batch = batch["paired"]
    cells, accuracy = cell_loss(model, head, model.vision(shown.images, model.config.dtype), batch["labels"])
    one, two = language_loss(model, shown), language_loss(model, batch["text"])
    loss = one + two + AUXILIARY_WEIGHT * cells
    return loss, {"loss": loss, "ce_paired": one, "ce_text": two, "cells": cells, "cell_accuracy": accuracy}


def make_train_step(loss: Callable[..., Any], optimiser: Optimiser) -> Callable[..., Any]:
    def step(state: TrainState, batch: Any):
        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.trainable, batch)
        state, applied = state.apply_gradients(gradients, optimiser)
        return state, metrics | applied

    return jax.jit(step, donate_argnums=0)


def main(config: Config) -> None:
    model_config = PRESETS[config.preset]
    tokenizer = load_tokenizer()
    encoder = ChatEncoder(tokenizer, model_config)
    image = ImageSettings(size=(HEIGHT, WIDTH))
    labels = CellLabels(tokenizer)

    def loader(make, name: str, rows: int, length: int, count: int) -> Loader:
        collate = Collator(encoder, CollatorConfig(lengths=(length,), image=image))
        return Loader(Generated(make, name, count), collate, LoaderConfig(rows, seed=config.seed, prefetch=4))

    pictures = loader(paired, "paired", config.align_rows, config.paired_length, 10**6)
    shown = loader(paired, "paired", config.paired_rows, config.paired_length, 10**6)
    texts = loader(text_only, "text_only", config.text_rows, config.text_length, 10**6)

    def align_batches():
        for collated in pictures:
            yield {"images": collated.batch.images, "labels": labels(collated)}

    def chat_batches():
        for collated, text in zip(shown, texts):
            yield {"paired": collated.batch, "text": text.batch, "labels": labels(collated)}

    specs = (
        QwenVL.spec(model_config),
        Linear.spec(model_config.text.width, model_config.text.vocab_size, ("embed", "vocab"), bias=True),
    )
    params = jax.jit(lambda key: materialize(specs, key))(jax.random.key(config.seed))
    progress = Progress()
    aligned = config.out / "align"
    if aligned.exists():  # an interrupted run goes on after the finished phase; the head is new then
        mesh = make_mesh()
        params = (load_backbone(aligned, mesh, TRAIN, np.float32), params[1])
        progress.say(f"phase align is done: {aligned}")
    with MetricsWriter(config.out) as writer:
        for phase, loss, batches, steps, lr in (
            ("align", align_loss, align_batches(), config.align_steps, config.align_lr),
            ("chat", chat_loss, chat_batches(), config.chat_steps, config.chat_lr),
        ):
            if phase == "align" and aligned.exists():
                continue
            optimiser = make_optimiser(OptimiserConfig(lr, "cosine", 0.05, 0.02), steps)
            state = TrainState.create(params, optimiser, jax.random.key(config.seed))
            fitted = fit(
                phase,
                state,
                make_train_step(loss, optimiser),
                batches,
                steps,
                writer=writer,
                progress=progress,
                log_every=20,
            )
            params = fitted.state.trainable
            files = {path.name: path for path in Path(FOLDER).iterdir()} if phase == "chat" else None
            save_backbone(
                params[0], config.out / ("model" if phase == "chat" else phase), dtype=np.float16, files=files
            )


if __name__ == "__main__":
    main(tyro.cli(Config))
