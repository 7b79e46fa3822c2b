"""A golden set as our code sees it: configuration, batches of the two row kinds, and the arrays of each file.

mm: rows with images, txt: text-only rows. B rows, L length, P patches of a row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lam_jax.formats.qwen2_5_vl import from_hf_dicts
from lam_jax.latent.config import LatentConfig
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.positions import Grid, image_layout, mrope_positions
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from tests.parity.checks import Check

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """The files SET_*.npz and SET_config.json of a folder."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        if not self.path("config.json").exists():
            raise FileNotFoundError(f"{self.folder} holds no {self.name}_config.json; name a golden set that is there")

    def path(self, part: str) -> Path:
        return self.folder / f"{self.name}_{part}"

    def arrays(self, part: str) -> Arrays:
        """Every array of SET_`part`.npz."""
        with np.load(self.path(f"{part}.npz")) as file:
            return {key: file[key] for key in file.files}

    def parts(self) -> list[str]:
        """The names between SET_ and .npz that this set has."""
        return sorted(p.stem.removeprefix(f"{self.name}_") for p in self.folder.glob(f"{self.name}_*.npz"))

    @cached_property
    def settings(self) -> dict:
        return json.loads(self.path("config.json").read_text())

    @cached_property
    def config(self) -> QwenConfig:
        """The backbone's sizes, from the Hugging Face names."""
        text, vision, ids = (self.settings[key] for key in ("text_config", "vision_config", "special_ids"))
        return from_hf_dicts(text, vision, ids, self.settings["tie_word_embeddings"])

    @cached_property
    def inputs(self) -> Arrays:
        return self.arrays("inputs")

    @cached_property
    def grids(self) -> list[list[Grid]]:
        """Each multimodal row's image grids: images go to rows in order, a row takes as many as its tokens need."""
        waiting = [tuple(int(side) for side in grid) for grid in self.inputs["image_grid_thw"]]
        rows = []
        for tokens in self.inputs["input_ids_mm"]:
            needed, taken = int((tokens == self.config.image_id).sum()), []
            while needed > 0:
                taken.append(waiting.pop(0))
                needed -= int(np.prod(taken[-1])) // self.config.vision.merge_patches
            rows.append(taken)
        if waiting:
            raise ValueError(f"{self.path('inputs.npz')}: {len(waiting)} image grid(s) belong to no row's image tokens")
        return rows

    def images(self) -> Images:
        """The patches of the file, which follow each other, laid out row by row."""
        layout = image_layout(self.grids, self.config.vision)
        patches = np.zeros((*layout["image_id"].shape, self.config.vision.patch_size), np.float32)
        patches[layout["image_id"] >= 0] = self.inputs["pixel_values"]
        return Images(jnp.asarray(patches), **{name: jnp.asarray(part) for name, part in layout.items()})

    def batch(self, kind: str) -> Batch:
        """The rows of `kind`: "mm" or "txt"."""
        tokens, mask = self.inputs[f"input_ids_{kind}"], self.inputs[f"attention_mask_{kind}"].astype(bool)
        config = self.config
        markers = [config.pad_id, config.vision_start_id, config.vision_end_id, config.image_id]
        grids: Sequence[Sequence[Grid]] = self.grids if kind == "mm" else [[]] * len(tokens)
        return Batch(
            tokens=jnp.asarray(tokens, jnp.int32),
            mask=jnp.asarray(mask),
            valid=jnp.asarray(mask & ~np.isin(tokens, markers)),
            response=jnp.zeros(tokens.shape, bool),
            positions=jnp.asarray(mrope_positions(tokens, mask, grids, config)),
            has_image=jnp.full(len(tokens), kind == "mm"),
            images=self.images() if kind == "mm" else None,
        )

    def labels(self) -> dict[str, Check]:
        """The labels that our rule of valid tokens gives."""
        return {
            f"labels_{kind}": Check(np.where(batch.valid, batch.tokens, -100))
            for kind, batch in (("mm", self.batch("mm")), ("txt", self.batch("txt")))
        }

    @property
    def latent(self) -> LatentConfig:
        """Sizes of the latent modules."""
        settings = self.settings
        return LatentConfig(
            codes=settings["num_code"],
            inverse_layers=settings["num_inverse_layer"],
            policy_layers=settings["num_policy_layer"],
            merge_layers=settings["merge_layer_num"],
            tau=settings["gumbel_tau"],
        )
