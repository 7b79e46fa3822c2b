"""What the demo's stages draw on: data, collators, loaders, tokenizer, base model, rewards."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collated, Collator, CollatorConfig
from lam_jax.data.loader import Loader, LoaderConfig, Placed, in_order
from lam_jax.data.schemas import Example
from lam_jax.demo.settings import (
    ANSWER_LENGTH,
    CHAT_LENGTHS,
    IMAGE_SIZE,
    PROMPT_LENGTHS,
    DemoConfig,
)
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.latent.agent import Agent, init_latent
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.models.inputs import Batch
from lam_jax.models.processor import ImageSettings
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.parallel import TRAIN, place
from lam_jax.parallel.multihost import barrier, is_first
from lam_jax.parallel.rows import from_own_rows, own_rows
from lam_jax.rewards.verdict import Verdict
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.scenes.builder import prepare, read_split
from lam_jax.scenes.rubric import Rubric
from lam_jax.scenes.tokenizer import load_tokenizer

BASE_MODEL = Path(__file__).parents[1] / "scenes" / "assets" / "base_model"


@dataclasses.dataclass
class Material:
    """Open data set, tokenizer and collators of a run."""

    config: DemoConfig
    folder: Path
    tokenizer: Any
    chats: dict[str, Collator]  # by source of rows
    prompts: dict[str, Collator]
    mesh: Mesh

    @classmethod
    def open(cls, config: DemoConfig, folder: Path, mesh: Mesh) -> "Material":
        """Builds the data set in `folder` unless it is there; with several processes the first one builds it."""
        tokenizer = load_tokenizer()
        encoder = ChatEncoder(tokenizer, PRESETS[config.preset])
        image = ImageSettings(size=IMAGE_SIZE)
        chats = {
            source: Collator(encoder, CollatorConfig((length,), image=image)) for source, length in CHAT_LENGTHS.items()
        }
        prompts = {
            source: Collator(encoder, CollatorConfig((length,), kind="prompt", padding="left", image=image))
            for source, length in PROMPT_LENGTHS.items()
        }
        if is_first():
            prepare(folder, config.sizes)
        barrier("data")
        return cls(config, prepare(folder, config.sizes), tokenizer, chats, prompts, mesh)

    def examples(self, source: str, split: str) -> list[Example]:
        """A split of the data set."""
        return read_split(self.folder, source, split)

    def batches(self, source: str, split: str, rows: int) -> Placed:
        """Endless shuffled training batches on the mesh; each process makes the rows that its devices hold."""
        own = own_rows(self.mesh, TRAIN, rows)
        config = LoaderConfig(rows, seed=self.config.seed, rows=own)
        loader = Loader(self.examples(source, split), self.chats[source], config)
        return Placed(loader, lambda collated: from_own_rows(collated.batch, own, rows, self.mesh, TRAIN))

    def held_out(self, source: str, split: str, rows: int) -> Batch:
        """The first rows of a split, on the mesh."""
        first = next(in_order(self.examples(source, split), self.chats[source], rows)).batch
        return place(first, self.mesh, TRAIN)

    def prompt_loader(self, task: str) -> Loader[Example, Collated]:
        """Endless shuffled prompts for RL; every process makes all of them and scores the samples that it holds."""
        config = LoaderConfig(self.config.rl_prompts, seed=self.config.seed)
        return Loader(self.examples(task, "rl"), self.prompts[task], config)

    def base_agent(self) -> Agent:
        """The shipped base model with new latent modules."""
        backbone = load_backbone(BASE_MODEL, self.mesh, TRAIN, np.float32)
        return init_latent(backbone, LATENT_PRESETS[self.config.preset], jax.random.key(self.config.seed), self.mesh)

    def rollout_config(self, samples: int, temperature: float = 1.0) -> RolloutConfig:
        """Rollouts of this run: no truncation at 32 codes, so that both spaces sample alike."""
        return RolloutConfig(samples=samples, length=ANSWER_LENGTH, sampling=SamplingConfig(temperature=temperature))


class RubricJudge:
    """The rubric as RL's reward and as evaluation's judge."""

    def __init__(self, task: str):
        self.rubric = Rubric(task)

    def __call__(self, answers: Sequence[str], examples: Sequence[Example]) -> list[Verdict]:
        """Verdicts, one example an answer."""
        return self._rewards(answers, examples).verdicts()

    def reward(self, examples: Sequence[Example], answers: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Rewards [N, G]; a rubric never fails."""
        flat = [text for group in answers[: len(examples)] for text in group]
        repeated = [example for example, group in zip(examples, answers) for _ in group]
        rewards = self._rewards(flat, repeated).rewards.reshape(len(examples), -1)
        return rewards, np.ones(rewards.shape, bool)

    def _rewards(self, answers: Sequence[str], examples: Sequence[Example]):
        facts = [example.facts or {} for example in examples]
        prompts = [[dict(message) for message in example.prompt] for example in examples]
        return self.rubric.reward(list(answers), facts, prompts, [e.reference for e in examples])
