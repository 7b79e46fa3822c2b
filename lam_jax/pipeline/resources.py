"""What a recipe's stages draw on, opened: rows, collators, loaders, tokenizer, backbone."""

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
from lam_jax.data.sources import RowSource
from lam_jax.formats.hf_config import read_config
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.latent.agent import Agent, init_latent
from lam_jax.models.inputs import Batch
from lam_jax.models.processor import ImageSettings
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.models.tokenizer import read_tokenizer
from lam_jax.parallel import TRAIN, place
from lam_jax.parallel.multihost import barrier, is_first
from lam_jax.parallel.rows import from_own_rows, own_rows
from lam_jax.recipe import Recipe
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.tasks.task import Task

PAIRED, TEXT_ONLY = "paired", "text_only"


@dataclasses.dataclass
class Resources:
    """An opened recipe. Rows go by their source: "paired", "text_only", or a task's name.

    Attributes:
        recipe: which.
        folder: where sources keep what they build.
        mesh: of all devices of the run.
        config: of the backbone.
        tokenizer: the backbone's.
        chats, prompts: collators of whole chats and of prompts, by source.
        rl_prompts: collators of stage 6's prompts, by task.
    """

    recipe: Recipe
    folder: Path
    mesh: Mesh
    config: QwenConfig
    tokenizer: Any
    chats: dict[str, Collator]
    prompts: dict[str, Collator]
    rl_prompts: dict[str, Collator]
    _read: dict[tuple[str, str], Sequence[Example]] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, recipe: Recipe, folder: Path, mesh: Mesh) -> "Resources":
        """Builds what the sources need in `folder` (the first process does) and opens the rest.

        Raises:
            DataError: rows that cannot be read.
            FileNotFoundError, ValueError: the model's folder cannot be used.
        """
        config = read_config(recipe.model.path)
        if recipe.model.compute_dtype:
            config = dataclasses.replace(config, compute_dtype=recipe.model.compute_dtype)
        tokenizer = read_tokenizer(recipe.model.path)
        encoder = ChatEncoder(tokenizer, config)
        chats: dict[str, tuple[int, ...]] = {PAIRED: recipe.paired.lengths}
        prompts: dict[str, tuple[int, ...]] = {}
        if recipe.paired.prompt_lengths:
            prompts[PAIRED] = recipe.paired.prompt_lengths
        if recipe.text_only is not None:
            chats[TEXT_ONLY] = recipe.text_only.lengths
        for task in recipe.tasks:
            chats[task.name], prompts[task.name] = task.chat_lengths, task.prompt_lengths

        def prompt_collator(lengths: tuple[int, ...], image: ImageSettings) -> Collator:
            return Collator(encoder, CollatorConfig(lengths, kind="prompt", padding="left", image=image))

        found = cls(
            recipe,
            folder,
            mesh,
            config,
            tokenizer,
            {
                name: Collator(encoder, CollatorConfig(lengths, padding=recipe.padding, image=recipe.image))
                for name, lengths in chats.items()
            },
            {name: prompt_collator(lengths, recipe.image) for name, lengths in prompts.items()},
            {t.name: prompt_collator(t.prompt_lengths, recipe.rl.image or recipe.image) for t in recipe.tasks},
        )
        if is_first():
            for source in sources_of(recipe):
                source.prepare(folder)
        barrier("data")
        return found

    @property
    def tasks(self) -> dict[str, Task]:
        """The recipe's tasks by name."""
        return {task.name: task for task in self.recipe.tasks}

    def examples(self, source: str, split: str) -> Sequence[Example]:
        """A split of a source; read once."""
        key = source, split
        if key not in self._read:
            self._read[key] = self._rows(source).read(self.folder, split)
        return self._read[key]

    def _rows(self, source: str) -> RowSource:
        if source == PAIRED:
            return self.recipe.paired.rows
        if source == TEXT_ONLY:
            if self.recipe.text_only is None:
                raise ValueError("This recipe has no text-only rows.")
            return self.recipe.text_only.rows
        return self.tasks[source].rows

    def batches(self, source: str, split: str, rows: int) -> tuple[Placed, int]:
        """Endless shuffled training batches on the mesh, each process making its own rows; and the number of rows."""
        own = own_rows(self.mesh, TRAIN, rows)
        examples = self.examples(source, split)
        loader = Loader(examples, self.chats[source], LoaderConfig(rows, seed=self.recipe.seed, rows=own))
        return Placed(loader, lambda made: from_own_rows(made.batch, own, rows, self.mesh, TRAIN)), len(examples)

    def held_out(self, source: str, split: str) -> Batch:
        """The first rows of a split, on the mesh."""
        rows = self.recipe.evaluation.held_out
        first = next(in_order(self.examples(source, split)[:rows], self.chats[source], rows)).batch
        return place(first, self.mesh, TRAIN)

    def prompt_loader(self, task: Task) -> Loader[Example, Collated]:
        """Endless shuffled prompts for RL; every process makes all of them and scores the samples that it holds."""
        config = LoaderConfig(self.recipe.rl.prompts, seed=self.recipe.seed)
        return Loader(self.examples(task.name, task.rl), self.rl_prompts[task.name], config)

    def base_agent(self) -> Agent:
        """The backbone with new latent modules."""
        backbone = load_backbone(self.recipe.model.path, self.mesh, TRAIN, np.float32).replace(config=self.config)
        return init_latent(backbone, self.recipe.latent, jax.random.key(self.recipe.seed), self.mesh)

    def rollout_config(self, task: Task, samples: int, sampling: SamplingConfig) -> RolloutConfig:
        """Rollouts of a task."""
        return RolloutConfig(samples=samples, length=task.answer_length, sampling=sampling)


def sources_of(recipe: Recipe) -> list[RowSource]:
    """Every source of rows of a recipe."""
    corpora = [recipe.paired, *([recipe.text_only] if recipe.text_only is not None else [])]
    return [*(corpus.rows for corpus in corpora), *(task.rows for task in recipe.tasks)]


def content_of(recipe: Recipe) -> list[str]:
    """Hashes of what the sources of a recipe hold, in their order."""
    return [source.content() for source in sources_of(recipe)]
