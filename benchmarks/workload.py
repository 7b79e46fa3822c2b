"""What the benchmarks run: a preset with random weights, prompts with one picture each, rollouts of forced length.

N prompts, G samples of a prompt, P prompt length, T completion length.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.data.collator import Collated, Cuts
from lam_jax.data.schemas import Example
from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LATENT_PRESETS, LatentConfig
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import PRESETS, family_of
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.positions import image_layout, mrope_positions
from lam_jax.nn.stack import Remat
from lam_jax.nn.weight import materialize
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.train.method import METHODS
from lam_jax.train.partition import Choice, in_dtype, partition
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.spaces import SPACES

METHOD = METHODS["default"]
# The paper's latent rollouts: top-k 32 of the codes; tokens at temperature 1.
SAMPLING: dict[str, SamplingConfig] = {
    "latent": SamplingConfig(top_k=32),
    "hybrid": HybridSampling(top_k=32),
    "token": SamplingConfig(),
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes of a run.

    Attributes:
        preset: name of the backbone's and the latent modules' sizes.
        prompt: P, tokens of a prompt, those of its picture included.
        image: height and width in pixels.
        completion: T.
        samples: G.
        prompts: N.
        rows: rows of a batch of stages 1 to 5.
    """

    preset: str
    prompt: int = 200
    image: tuple[int, int] = (280, 420)
    completion: int = 128
    samples: int = 8
    prompts: int = 1
    rows: int = 8

    @property
    def config(self) -> BackboneConfig:
        """The backbone's sizes."""
        return PRESETS[self.preset]

    @property
    def latent(self) -> LatentConfig:
        """The latent modules' sizes."""
        return LATENT_PRESETS[self.preset]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of a picture, (h, w)."""
        return self.image[0] // self.config.vision.patch, self.image[1] // self.config.vision.patch

    @property
    def large(self) -> bool:
        """Activations of a whole batch fit no card: a few hundred MB of them do."""
        return self.preset.startswith("qwen")

    @property
    def remat(self) -> Remat:
        """What stages 1 to 5 recompute."""
        return "products" if self.large else False

    @property
    def tokens(self) -> int:
        """Completion tokens of a rollout."""
        return self.prompts * self.samples * self.completion


# `mid` is the standard workload; the published sizes run as the paper did.
WORKLOADS: dict[str, Workload] = {
    "tiny": Workload("tiny", prompt=32, image=(56, 112), completion=8, samples=4, rows=2),
    "small": Workload("small"),
    "mid": Workload("mid"),
    **{
        name: Workload(name, 1024, family_of(PRESETS[name]).size, completion=1024, prompts=4, rows=4)
        for name in ("qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen3_vl_2b", "qwen3_vl_4b", "qwen3_vl_8b")
    },
}


def make_agent(work: Workload, seed: int = 0) -> Agent:
    """Random weights, made on the device. The frozen part of presets that compute in bfloat16 rests in it."""
    specs = Agent.spec(work.config, work.latent)
    return jax.jit(lambda key: materialize(specs, key))(jax.random.key(seed))


def make_halves(work: Workload, parts: Mapping[str, Choice], seed: int = 0) -> tuple[Agent, Agent]:
    """`make_agent` as training holds it: float32 masters of the trained `parts`, the rest in the compute dtype."""
    specs = Agent.spec(work.config, work.latent)

    @jax.jit
    def make(key: jax.Array) -> tuple[Agent, Agent]:
        trainable, frozen = partition(materialize(specs, key), parts)
        return trainable, in_dtype(frozen, work.config.dtype)

    return make(jax.random.key(seed))


def make_batch(work: Workload, rows: int, length: int, pictures: bool = True, seed: int = 0) -> Batch:
    """Rows without padding: an image if `pictures`, then random words; the last quarter counts as the response."""
    config, rng = work.config, np.random.default_rng(seed)
    grids = [[(1, *work.grid)] if pictures else []] * rows
    marks = (config.pad_id, config.eos_id, config.vision_start_id, config.vision_end_id, config.image_id)
    words = np.setdiff1d(np.arange(config.text.vocab_size), (*marks, config.video_id))
    tokens = rng.choice(words, (rows, length)).astype(np.int32)
    if pictures:
        count = work.grid[0] * work.grid[1] // config.vision.merge_patches
        picture = [config.vision_start_id, *[config.image_id] * count, config.vision_end_id]
        if len(picture) >= length:
            raise ValueError(f"A picture takes {len(picture)} tokens, more than a row of {length}: choose longer rows.")
        tokens[:, : len(picture)] = picture
    mask = np.ones(tokens.shape, bool)
    response = np.broadcast_to(np.arange(length) >= length - length // 4, tokens.shape)
    images = None
    if pictures:
        layout = image_layout(grids, config.vision)
        patches = rng.standard_normal((*layout["image_id"].shape, config.vision.patch_size), np.float32)
        images = Images(patches, **layout)
    batch = Batch(
        tokens=tokens,
        mask=mask,
        valid=mask & ~np.isin(tokens, marks[:1] + marks[2:]),
        response=response,
        positions=mrope_positions(tokens, mask, grids, config),
        has_image=np.full(rows, pictures),
        images=images,
    )
    return jax.tree.map(jnp.asarray, batch)


def prompts(work: Workload, count: int | None = None, seed: int = 0) -> Batch:
    """`count` prompts (default: the workload's)."""
    return make_batch(work, count or work.prompts, work.prompt, seed=seed)


def sample_ids(count: int, samples: int) -> jax.Array:
    """int32 [N, G]."""
    return jnp.arange(count * samples, dtype=jnp.int32).reshape(count, samples)


def rl_config(work: Workload, space: str, stop: bool = False) -> RLConfig:
    """GRPO with its reference, as released; every completion of full length unless `stop`."""
    rollout = RolloutConfig(work.samples, work.completion, SAMPLING[space], stop=stop)
    config = RLConfig(ALGORITHMS["grpo"], SPACES[space], prompts=work.prompts, rollout=rollout)
    # The policy of codes is a quarter of the backbone: its activations fit a large card as they are. Those of tokens
    # fit prompt by prompt, which costs nothing else than adding the gradients up.
    if work.large and space == "token":
        config = dataclasses.replace(config, remat="products", micro_batches=work.prompts)
    return config


def spaces(agent: Agent) -> dict[str, ActionSpace]:
    """Every action space over one agent."""
    return {name: space.actions(agent, METHOD) for name, space in SPACES.items()}


def endless_prompts(work: Workload) -> Iterator[Collated]:
    """Collated prompts, another seed each time."""
    example = Example("row", ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}))
    seed = 0
    while True:
        yield Collated(prompts(work, seed=seed), (example,) * work.prompts, Cuts())
        seed += 1
