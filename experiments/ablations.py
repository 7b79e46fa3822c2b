"""What the parts of the method, and amount and quality of its data, are worth: role play, GRPO, one change at a time.

    .venv/bin/python -m experiments.ablations --list
    .venv/bin/python -m experiments.ablations                  # `make ablations`
    .venv/bin/lam-jax table experiments/results/ablations

Each is the agent `repaired` of `experiments.arms` with one thing changed. Steps and batches stay, so amounts of data
say how often rows are seen again: stages 1 to 4 take 5,040 paired rows of 6,000 and 2,480 text-only rows of 21,600.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.arms import arm
from experiments.grid_command import main
from experiments.noisy_pictures import NoisyRows
from experiments.only_tasks import OnlyTasks
from lam_jax.data.mispaired import MispairedRows
from lam_jax.grid.grid import Grid
from lam_jax.recipe import Recipe
from lam_jax.scenes.builder import SceneSizes
from lam_jax.scenes.source import SceneRows

Change = Callable[[Recipe], Recipe]


def _method(**fields: Any) -> Change:
    return lambda recipe: dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, **fields))


def _latent(**fields: Any) -> Change:
    return lambda recipe: dataclasses.replace(recipe, latent=dataclasses.replace(recipe.latent, **fields))


def _mispaired(share: float) -> Change:
    def change(recipe: Recipe) -> Recipe:
        rows = MispairedRows(recipe.paired.rows, share)
        return dataclasses.replace(recipe, paired=dataclasses.replace(recipe.paired, rows=rows))

    return change


def _noisy(share: float, deviation: float) -> Change:
    def change(recipe: Recipe) -> Recipe:
        rows = NoisyRows(recipe.paired.rows, share, deviation)
        return dataclasses.replace(recipe, paired=dataclasses.replace(recipe.paired, rows=rows))

    return change


def _dialogue(recipe: Recipe) -> Recipe:
    """Text-only rows without role play and help: captions and questions about described pictures, 7,500 of 21,600."""
    assert recipe.text_only is not None
    rows = OnlyTasks(recipe.text_only.rows, ("dialogue",))
    return dataclasses.replace(recipe, text_only=dataclasses.replace(recipe.text_only, rows=rows))


def _rows(**train: int) -> Change:
    """Other numbers of training rows of stages 1 to 4."""

    def change(recipe: Recipe) -> Recipe:
        for name, rows in train.items():
            corpus = getattr(recipe, name)
            assert isinstance(corpus.rows, SceneRows)
            sizes: SceneSizes = corpus.rows.sizes
            changed = dataclasses.replace(sizes, **{name: {**getattr(sizes, name), "train": rows}})
            corpus = dataclasses.replace(corpus, rows=SceneRows(name, changed))
            recipe = dataclasses.replace(recipe, **{name: corpus})
        return recipe

    return change


CHANGES: Mapping[str, Change] = {
    "full": lambda recipe: recipe,
    # The paper's ablations.
    "no_cycle": _method(cycle=False),
    "no_projector": _method(project=False),
    "no_text_only": _method(text_only=False),
    # Amount and quality of the data.
    "text_only_240": _rows(text_only=240),
    "text_only_1200": _rows(text_only=1200),
    "text_only_dialogue": _dialogue,
    "paired_600": _rows(paired=600),
    "paired_1800": _rows(paired=1800),
    "mispaired_20": _mispaired(0.2),
    "mispaired_50": _mispaired(0.5),
    "mispaired_100": _mispaired(1.0),
    "noisy_pictures": _noisy(0.5, 64.0),  # half of them, by a quarter of the range of a pixel
    # The space.
    "codes_16": _latent(codes=16),
    "codes_64": _latent(codes=64),
    "codes_128": _latent(codes=128),
    "codes_256": _latent(codes=256),
    # Training of the codes.
    "inverse_tokens": _latent(inverse_reads="tokens"),
    "readout_block": lambda recipe: dataclasses.replace(recipe, method=recipe.method.with_readout("block")),
    "readout_delta": lambda recipe: dataclasses.replace(recipe, method=recipe.method.with_readout("delta")),
    "sft_released": _method(sft="released"),
    "sft_guided": _method(sft="guided"),
    "sft_joint": _method(sft="joint"),
    "gumbel_off": _method(gumbel="off"),
    "gumbel_annealed": _method(gumbel="annealed"),
}


def ablated(seed: int, change: str) -> Recipe:
    """The recipe of a change; ValueError: another name."""
    if change not in CHANGES:
        raise ValueError(f"change is {change!r}, expected one of {sorted(CHANGES)}.")
    return dataclasses.replace(CHANGES[change](arm("repaired", seed)), name="ablations")


GRID = Grid("ablations", {"demo": ablated}, {"seed": (0, 1, 2), "change": tuple(CHANGES)})

if __name__ == "__main__":
    main(GRID)
