"""Pre-trains the tiny vision-language model that ships with the package, as Qwen2.5-VL is pre-trained for a real run.

    .venv/bin/python -m experiments.base_model --out runs/base

Phase `align` teaches the vision tower alone: every image token must tell which object (or background) its 28 x 28
pixel cell shows, through a linear head that is thrown away afterwards. Phase `chat` trains all weights on captions,
questions and text-only dialogues, next-token prediction on every position, with such a head as an auxiliary loss.
Phase `bind` goes on with mostly image-text rows, an extra loss on the objects' names, and a linear head that must tell
the column of every image token and of the object to be named next, so that captions name several objects in their
order. Rows are drawn from the grammar (split names "paired" and "text_only") and no phase sees one twice.

Writes OUT/model (Hugging Face folder) and OUT/metrics.jsonl; `experiments.base_scores` scores it and writes the card.
"""

import dataclasses
import functools
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
from lam_jax.data.schemas import Example, Where
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.save_backbone import save_backbone
from lam_jax.losses import masked_mean, target_mask, token_logps
from lam_jax.models.inputs import Batch
from lam_jax.models.processor import ImageSettings
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.nn.layers import Linear
from lam_jax.nn.weight import materialize
from lam_jax.parallel import TRAIN, make_mesh, use
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.runs.metrics import MetricsWriter
from lam_jax.runs.progress import Progress
from lam_jax.runs.tools import Tools
from lam_jax.scenes.compose import concepts
from lam_jax.scenes.rows import paired, text_only
from lam_jax.scenes.tokenizer import FOLDER, TOKENIZER_FILES, load_tokenizer
from lam_jax.train.loop import Phase, fit
from lam_jax.train.optimiser import Optimiser, OptimiserConfig, make_optimiser
from lam_jax.train.state import TrainState

HEIGHT, WIDTH, CELL = 84, 112, 28
Heads = dict[str, Linear]  # "cells" and "columns", thrown away afterwards
AUXILIARY_WEIGHT = 0.3
ROWS = 10**6  # rows of each stream before it repeats; no phase gets that far


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
    bind_steps: int = 1200
    bind_paired_rows: int = 40
    bind_text_rows: int = 8
    bind_lr: float = 1.5e-3
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


def column_labels(collated: Collated, names: np.ndarray, tokenizer: Any, image_id: int) -> np.ndarray:
    """Column (0 to 3) of each image token, and of the object that the next token of an answer names; else -1."""
    tokens, response = np.asarray(collated.batch.tokens), np.asarray(collated.batch.response)
    columns = np.full(tokens.shape, -1, np.int32)
    for row, example in enumerate(collated.examples):
        cells = np.flatnonzero(tokens[row] == image_id)
        columns[row, cells] = np.arange(len(cells)) % (WIDTH // CELL)
        things = (example.facts or {})["objects"]
        place = {thing["name"]: int(thing["x"] // CELL) for thing in things}
        if len(place) < len(things):  # several of one kind: no single place
            continue
        for t in np.flatnonzero(names[tokens[row]] & response[row]):
            columns[row, t - 1] = place.get(tokenizer.decode([tokens[row, t]]).strip(), -1)
    return columns


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


def align_loss(params: tuple[QwenVL, Heads], batch: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Vision tower and head only."""
    model, heads = params
    loss, accuracy = cell_loss(
        model, heads["cells"], model.vision(batch["images"], model.config.dtype), batch["labels"]
    )
    return loss, {"loss": loss, "cell_accuracy": accuracy}


def language_loss(model: QwenVL, batch: Batch, names: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Next-token cross-entropy over all valid positions and over object names in answers, and the states."""
    targets = jnp.concatenate([batch.tokens[:, 1:], batch.tokens[:, -1:]], axis=1)
    states = model.states(batch)
    logps, _ = token_logps(states, model.embedding, targets)
    keep = target_mask(batch.valid, batch.mask)
    naming = keep & names[targets] & batch.response
    return masked_mean(-logps, keep).value, masked_mean(-logps, naming).value, states


def column_loss(head: Linear, states: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and accuracy of `column_labels` from the states [B, L, D]."""
    logits = head(states).astype(jnp.float32)
    known = columns >= 0
    logps = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(columns, 0)[..., None], axis=-1)[..., 0]
    right = (jnp.argmax(logits, axis=-1) == columns).astype(jnp.float32)
    return masked_mean(-logps, known).value, masked_mean(right, known).value


def chat_loss(
    params: tuple[QwenVL, Heads], batch: dict[str, Any], binding: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Paired rows, text-only rows, the auxiliary cell loss and, weighted with `binding`, names and columns."""
    model, heads = params
    shown: Batch = batch["paired"]
    cells, accuracy = cell_loss(model, heads["cells"], model.vision(shown.images, model.config.dtype), batch["labels"])
    one, naming, states = language_loss(model, shown, batch["names"])
    two, _, _ = language_loss(model, batch["text"], batch["names"])
    columns, column_accuracy = column_loss(heads["columns"], states, batch["columns"])
    loss = one + two + AUXILIARY_WEIGHT * cells + binding * (naming + columns)
    return loss, {
        "loss": loss,
        "ce_paired": one,
        "ce_names": naming,
        "ce_text": two,
        "cells": cells,
        "cell_accuracy": accuracy,
        "columns": columns,
        "column_accuracy": column_accuracy,
    }


def make_train_step(loss: Callable[..., Any], optimiser: Optimiser) -> Callable[..., Any]:
    layout = choose_layout(None)

    def step(state: TrainState, batch: Any):
        with use(None, TRAIN, layout):
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

    def loader(make, name: str, rows: int, length: int, seed: int) -> Loader:
        collate = Collator(encoder, CollatorConfig(lengths=(length,), image=image))
        return Loader(Generated(make, name, ROWS), collate, LoaderConfig(rows, seed=seed, prefetch=4))

    names = np.zeros(model_config.text.vocab_size, bool)
    names[[tokenizer.encode(f" {c.name}", add_special_tokens=False)[0] for c in concepts()]] = True

    def align_batches():
        for collated in loader(paired, "paired", config.align_rows, config.paired_length, config.seed):
            yield {"images": collated.batch.images, "labels": labels(collated)}

    def chat_batches(paired_rows: int, text_rows: int, seed: int):
        shown = loader(paired, "paired", paired_rows, config.paired_length, seed)
        texts = loader(text_only, "text_only", text_rows, config.text_length, seed)
        for collated, text in zip(shown, texts):
            yield {
                "paired": collated.batch,
                "text": text.batch,
                "labels": labels(collated),
                "names": names,
                "columns": column_labels(collated, names, tokenizer, model_config.image_id),
            }

    width = model_config.text.width
    heads = {
        "cells": Linear.spec(width, model_config.text.vocab_size, ("embed", "vocab"), bias=True),
        "columns": Linear.spec(width, WIDTH // CELL, ("embed", None), bias=True),
    }
    specs = (QwenVL.spec(model_config), heads)
    params = jax.jit(lambda key: materialize(specs, key))(jax.random.key(config.seed))
    progress = Progress()
    bind_batches = chat_batches(config.bind_paired_rows, config.bind_text_rows, config.seed + 1)
    phases = (
        ("align", align_loss, align_batches(), config.align_steps, config.align_lr),
        (
            "chat",
            functools.partial(chat_loss, binding=0.0),
            chat_batches(config.paired_rows, config.text_rows, config.seed),
            config.chat_steps,
            config.chat_lr,
        ),
        ("bind", functools.partial(chat_loss, binding=1.0), bind_batches, config.bind_steps, config.bind_lr),
    )
    files = {name: FOLDER / name for name in TOKENIZER_FILES}
    with MetricsWriter(config.out) as writer:
        for phase, loss, batches, steps, lr in phases:
            folder = config.out / ("model" if phase == phases[-1][0] else phase)
            if folder.exists():  # an interrupted run goes on after its last finished phase, with a new head
                params = (load_backbone(folder, make_mesh(), TRAIN, np.float32), params[1])
                progress.say(f"phase {phase} is done: {folder}")
                continue
            optimiser = make_optimiser(OptimiserConfig(lr, "cosine", 0.05, 0.02), steps)
            state = TrainState.create(params, optimiser, jax.random.key(config.seed))
            step = make_train_step(loss, optimiser)
            fitted = fit(Phase(phase, steps, log_every=20), state, step, batches, Tools(writer, progress))
            params = fitted.state.trainable
            save_backbone(params[0], folder, dtype=np.float16, files=files)


if __name__ == "__main__":
    main(tyro.cli(Config))
