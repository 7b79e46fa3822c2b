"""A model of a few thousand weights and batches for it, shared by the tests of the core.

Row: one chat. P patches of a row, L length.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LatentConfig
from lam_jax.models.config import BackboneConfig
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.positions import image_layout, mrope_positions
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.models.qwen3_vl import config as qwen3
from lam_jax.models.qwen3_vl.config import Qwen3VLConfig
from lam_jax.nn.weight import Weight, is_weight

PAD, EOS, VISION_START, VISION_END, IMAGE, VIDEO = range(6)
FIRST_WORD, VOCAB = 6, 64
CONFIG = QwenConfig(
    text=TextConfig(VOCAB, width=32, hidden=48, layers=2, heads=4, kv_heads=2, mrope_sections=(1, 1, 2)),
    vision=VisionConfig(16, hidden=24, layers=2, heads=2, full_layers=(1,), window=8, out_width=32, patch=2),
    pad_id=PAD,
    eos_id=EOS,
    vision_start_id=VISION_START,
    vision_end_id=VISION_END,
    image_id=IMAGE,
    video_id=VIDEO,
)
# Heads wider than the width over their number, features for the first two of three blocks.
QWEN3 = Qwen3VLConfig(
    text=qwen3.TextConfig(
        VOCAB, width=32, hidden=48, layers=3, heads=4, kv_heads=2, mrope_sections=(3, 2, 3), head_dim=16
    ),
    vision=qwen3.VisionConfig(
        16, hidden=24, layers=3, heads=2, out_width=32, table_side=5, deepstack_layers=(0, 2), patch=2
    ),
    pad_id=PAD,
    eos_id=EOS,
    vision_start_id=VISION_START,
    vision_end_id=VISION_END,
    image_id=IMAGE,
    video_id=VIDEO,
)
LATENT = LatentConfig(codes=8, inverse_layers=1, policy_layers=2, merge_layers=2)


@functools.cache
def agent(config: BackboneConfig = CONFIG) -> Agent:
    """An agent of the sizes above."""
    return draw_agent(config, LATENT)


def draw_agent(config: BackboneConfig, latent: LatentConfig) -> Agent:
    """Weights far from their initial values, so that every bias, norm scale and position matters."""
    rng = np.random.default_rng(0)

    def draw(weight: Weight):
        scale, centre = (0.12, 0.0) if weight.init == "normal" else (0.1, float(weight.init == "ones"))
        return jnp.asarray(rng.normal(centre, scale, weight.shape).astype(np.float32))

    params = jax.tree.map(draw, Agent.spec(config, latent), is_leaf=is_weight)
    # Codes as large as normed states, so that they steer.
    return params.replace(latent=params.latent.replace(codebook=8 * params.latent.codebook))


@dataclasses.dataclass(frozen=True)
class Row:
    """A chat: an image of each grid (in patches), then words; the last `response` words are the answer."""

    words: tuple[int, ...]
    grids: tuple[tuple[int, int, int], ...] = ()
    response: int = 0
    seed: int = 0

    @property
    def tokens(self) -> list[int]:
        """Image blocks, then the words."""
        images = [
            [VISION_START, *[IMAGE] * (h * w // CONFIG.vision.merge_patches), VISION_END] for _, h, w in self.grids
        ]
        return [*itertools.chain.from_iterable(images), *self.words]


def words(count: int, seed: int = 0) -> tuple[int, ...]:
    """Some ordinary tokens."""
    return tuple(int(x) for x in np.random.default_rng(seed).integers(FIRST_WORD, VOCAB, count))


def make_batch(
    rows: Sequence[Row],
    length: int,
    left: bool = False,
    patches: int | None = None,
    windows: int | None = None,
    config: BackboneConfig = CONFIG,
) -> Batch:
    """A batch padded on the right, or on the left."""
    tokens = np.full((len(rows), length), PAD, np.int32)
    mask, response = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        start = length - len(row.tokens) if left else 0
        stop = start + len(row.tokens)
        tokens[i, start:stop] = row.tokens
        mask[i, start:stop] = True
        response[i, stop - row.response : stop] = True
    grids = [row.grids for row in rows]
    images = None
    if any(grids):
        layout = image_layout(grids, config.vision, patches, windows)
        image_id = layout["image_id"]
        values = np.zeros((*image_id.shape, config.vision.patch_size), np.float32)
        for i, row in enumerate(rows):
            real = image_id[i] >= 0
            values[i, real] = np.random.default_rng(row.seed).normal(size=(real.sum(), values.shape[-1]))
        images = Images(values, **layout)
    batch = Batch(
        tokens=tokens,
        mask=mask,
        valid=mask & ~np.isin(tokens, (PAD, VISION_START, VISION_END, IMAGE)),
        response=response,
        positions=mrope_positions(tokens, mask, grids, config),
        has_image=np.array([bool(g) for g in grids]),
        images=images,
    )
    return jax.tree.map(jnp.asarray, batch)
