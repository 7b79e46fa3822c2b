"""Our side of the ladder: every rung from the reference's weights, each fed with the reference's lower rung.

B rows, L length, P patches of a row.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from lam_jax.formats import backbone_names as names
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.matching import weights_by_path
from lam_jax.formats.save_backbone import to_file_layout
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.positions import image_layout, mrope_positions
from lam_jax.models.qwen2_5_vl.vision import Windows
from lam_jax.nn import attention as attn
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.rope import grid_rotary
from lam_jax.parallel import TRAIN, make_mesh
from lam_jax.rollout.actions import next_positions
from tests.parity.ladder_cases import LadderCase

Arrays = dict[str, np.ndarray]
TIGHT, BLOCK, DEEP = 1e-6, 1e-5, 1e-4


@dataclass(frozen=True)
class Rung:
    """Two arrays that must be equal within `tolerance * (1 + |reference|)`."""

    name: str
    ours: np.ndarray
    reference: np.ndarray
    tolerance: float

    def check(self) -> None:
        np.testing.assert_allclose(
            self.ours, self.reference, rtol=self.tolerance, atol=self.tolerance, err_msg=self.name
        )


class Ladder:
    """A case's model, loaded from a Hugging Face folder that is written from the reference's weights."""

    def __init__(self, case: LadderCase, arrays: Arrays, folder: Path):
        self.case, self.arrays = case, arrays
        weights = {name[2:]: np.ascontiguousarray(value) for name, value in arrays.items() if name.startswith("w/")}
        save_file(weights, folder / "model.safetensors")
        config = {"model_type": case.model_type, **case.hf_config}
        (folder / "config.json").write_text(json.dumps(config))
        self.model: Any = load_backbone(folder, make_mesh(), TRAIN)

    @cached_property
    def batch(self) -> Batch:
        tokens, mask = self.arrays["tokens"].astype(np.int32), self.arrays["mask"]
        positions = mrope_positions(tokens, mask, self.case.grids, self.model.config)
        return Batch(
            tokens=jnp.asarray(tokens),
            mask=jnp.asarray(mask),
            valid=jnp.asarray(mask),
            response=jnp.zeros(mask.shape, bool),
            positions=jnp.asarray(positions),
            has_image=jnp.asarray([bool(row) for row in self.case.grids]),
            images=self.images if any(self.case.grids) else None,
        )

    @cached_property
    def images(self) -> Images:
        layout = image_layout(self.case.grids, self.model.config.vision)
        patches = self.by_row(self.arrays["pixels"], layout["image_id"] >= 0)
        return Images(patches, **{name: jnp.asarray(array) for name, array in layout.items()})

    def by_row(self, flat: np.ndarray, real: np.ndarray) -> jax.Array:
        """The reference's patches, which follow each other, in padded rows."""
        rows = np.zeros((*real.shape, *flat.shape[1:]), np.float32)
        rows[real] = flat
        return jnp.asarray(rows)

    @property
    def real_patches(self) -> np.ndarray:
        return np.asarray(self.images.image_id) >= 0

    def text_rungs(self) -> list[Rung]:
        model, arrays, batch = self.model, self.arrays, self.batch
        mask = self.arrays["mask"]

        def rung(name: str, ours: jax.Array, tolerance: float) -> Rung:
            return Rung(name, np.asarray(ours)[mask], arrays[name][mask], tolerance)

        rotary = model.rotary(batch.positions)
        rungs = [
            self._positions(),
            rung("text/cos", rotary.cos, TIGHT),
            rung("text/sin", rotary.sin, TIGHT),
        ]
        keep = attn.causal(batch.mask)
        states, deepstack = model._inputs(batch)
        first = jax.tree.map(lambda w: w[0], model.blocks)
        rungs.append(rung("text/first_norm", first.attention_norm(states), BLOCK))
        for index in range(self.case.layers):
            block = jax.tree.map(lambda w, i=index: w[i], model.blocks)
            states, _ = block(states, rotary, lambda q, k, v: attn.attention(q, k, v, keep))
            rungs.append(rung(f"text/block_{index}", states, BLOCK))
            states = jnp.where(batch.mask[..., None], jnp.asarray(arrays[f"text/block_{index}"]), states)
            states = states if deepstack is None else deepstack(states, jnp.int32(index))
        rungs.append(rung("text/states", model.norm(states), TIGHT))
        rungs.append(rung("text/states", model.states(batch), DEEP))
        rungs.append(rung("text/logits", model.logits(model.states(batch)), DEEP))
        return rungs

    def _positions(self) -> Rung:
        """At real tokens: transformers 4 gave padding the position 1, transformers 5 gives it 0."""
        ours, theirs = (
            np.swapaxes(x, 1, 2)[self.arrays["mask"]] for x in (self.batch.positions, self.arrays["text/positions"])
        )
        return Rung("text/positions", ours, theirs, 0.0)

    def vision_rungs(self) -> list[Rung]:
        tower, arrays, images = self.model.vision, self.arrays, self.images
        config, real = self.model.config.vision, self.real_patches

        def rung(name: str, ours: jax.Array, tolerance: float) -> Rung:
            return Rung(name, np.asarray(ours)[real], arrays[name], tolerance)

        rotary = grid_rotary(jnp.maximum(images.patch_hw, 0), config.width // config.heads)
        x = tower.patch_embed(images.patches)
        rungs = [
            Rung("vision/windows", *self._windows(), 0.0),
            rung("vision/cos", rotary.cos, TIGHT),
            rung("vision/sin", rotary.sin, TIGHT),
            rung("vision/patches", x, BLOCK),
        ]
        same = (images.image_id[:, :, None] == images.image_id[:, None, :]) & (images.image_id >= 0)[:, None, :]
        windows = Windows.create(images.window_slots, real.shape[1])
        for index in range(config.layers):
            block = jax.tree.map(lambda w, i=index: w[i], tower.blocks)
            x = block(x, rotary, same, windows, jnp.bool_(index in config.full_layers))
            rungs.append(rung(f"vision/block_{index}", x, BLOCK))
            x = self.by_row(arrays[f"vision/block_{index}"], real)
        groups = real[:, :: config.merge_patches]
        joined = tower.merger_norm(x).reshape(x.shape[0], groups.shape[1], -1)
        merged = tower.merger_down(jax.nn.gelu(tower.merger_up(joined), approximate=False))
        whole = tower(images, jnp.dtype("float32"))
        rungs += [
            Rung("vision/embeds", np.asarray(embeds)[groups], arrays["vision/embeds"], tolerance)
            for embeds, tolerance in ((merged, BLOCK), (whole, DEEP))
        ]
        return rungs

    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        """For every patch the smallest patch of its window, by our slots and by the reference's window order."""
        flat = np.cumsum(self.real_patches.ravel()).reshape(self.real_patches.shape) - 1
        ours = np.full(flat.max() + 1, -1)
        for row, slots in enumerate(np.asarray(self.images.window_slots)):
            for window in slots:
                members = flat[row, window[window >= 0]]
                ours[members] = members.min(initial=len(ours))
        order, starts = self.arrays["vision/window_order"], self.arrays["vision/window_starts"]
        theirs = np.full(len(order), -1)
        for members in np.split(order, starts[1:-1]):
            theirs[members] = members.min()
        return ours, theirs

    def decoding_rungs(self, new_tokens: int = 3) -> list[Rung]:
        """The last tokens decoded one by one with a cache, against the reference's full forward pass."""
        model, batch = self.model, self.batch
        length = batch.tokens.shape[1] - new_tokens
        images = batch.images
        prompts = jax.tree.map(lambda x: x[:, :length], batch.replace(images=None, positions=None, has_image=None))
        prompts = prompts.replace(images=images, has_image=batch.has_image, positions=batch.positions[:, :, :length])
        hidden, cache = model.prefill(prompts)
        cache = KVCache.create(cache, prompts.mask, samples=1, length=new_tokens, split=False)
        logits = [model.logits(model.norm(hidden[:, -1]))]
        for step in range(new_tokens):
            token = batch.tokens[:, None, length + step : length + step + 1]
            at = jnp.int32(step)
            hidden, cache = model.decode(cache, token, model.rotary(next_positions(prompts, at, 1)), at)
            logits.append(model.logits(model.norm(hidden[:, 0, 0])))
        return [
            Rung(f"decode {step}", np.asarray(value), self.arrays["text/logits"][:, length - 1 + step], DEEP)
            for step, value in enumerate(logits)
        ]

    def gradient_rungs(self) -> list[Rung]:
        """Gradients of the probed logits with respect to every weight, under their checkpoint names."""
        probe, batch = jnp.asarray(self.arrays["probe"]), self.batch

        def probed(model: Any) -> jax.Array:
            return jnp.sum(jnp.where(batch.mask[..., None], model.logits(model.states(batch)) * probe, 0.0))

        leaves = weights_by_path(jax.jit(jax.grad(probed))(self.model))
        rungs = []
        for entry in names.backbone(self.model.config):
            leaf = np.asarray(leaves[entry.path])
            for name, part in zip(entry.names(), leaf if entry.layers else [leaf], strict=True):
                if f"grad/{name}" not in self.arrays:
                    assert not part.any(), f"{name}: the reference has no gradient for it"
                    continue
                theirs = self.arrays[f"grad/{name}"]
                ours = np.concatenate(list(to_file_layout(part, entry, theirs.shape)))
                scale = np.abs(theirs).max()
                rungs.append(Rung(f"grad/{name}", ours / scale, theirs / scale, 3e-5))
        return rungs
