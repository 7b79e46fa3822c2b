"""What a recipe's stages draw on, opened: rows, collators, loaders, tokenizer, backbone."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collated, Collator, CollatorConfig
from lam_jax.data.loader import Loader, LoaderConfig, Placed, in_order
from lam_jax.data.schemas import DataError, Example, Where, require_reference
from lam_jax.data.sources import RowSource, require_unique_splits
from lam_jax.errors import NoSpaceError
from lam_jax.formats.model_folder import load_model, model_files, read_model_config, tokenizer_folder
from lam_jax.latent.agent import Agent, init_latent
from lam_jax.models.inputs import Batch
from lam_jax.models.processor import ImageSettings
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.models.tokenizer import read_tokenizer
from lam_jax.parallel import TRAIN, place
from lam_jax.parallel.multihost import barrier, is_first
from lam_jax.parallel.rows import from_own_rows, own_rows
from lam_jax.recipe import PAIRED, TEXT_ONLY, Model, Recipe
from lam_jax.rewards.embedding import load_embedder
from lam_jax.rewards.reward import WithContent, check_verdicts
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.disk import is_no_space
from lam_jax.tasks.task import Task

logger = logging.getLogger("lam_jax")
WHOLE, BLOCKS, BLOCK = 64 << 20, 64, 1 << 20  # bytes of a model's file, see `model_content`


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
            NoSpaceError: the disk is full.
            FileNotFoundError, ValueError: the model's folder cannot be used.
        """
        config = model_config(recipe.model)
        tokenizer = read_tokenizer(tokenizer_folder(recipe.model.path))
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
                _prepare(source, folder)
        barrier("data")
        return found

    @property
    def tasks(self) -> dict[str, Task]:
        """The recipe's tasks by name."""
        return {task.name: task for task in self.recipe.tasks}

    def examples(self, source: str, split: str) -> Sequence[Example]:
        """A split of a source; read once.

        Raises:
            DataError: rows that cannot be read or none, or a row with too many pictures or too few for its source.
        """
        key = source, split
        if key not in self._read:
            found = self._rows(source).read(self.folder, split)
            _require_rows(found, source, split, self._is_trained_on(source, split))
            self._read[key] = found
        return self._read[key]

    def try_out(self) -> None:
        """Reads all rows and uses collators, rewards and embedder once: what cannot work fails before training.

        Raises:
            DataError: rows that cannot be used, or two with one id.
            RewardShapeError: a reward gave something else than a verdict an answer.
            ImportError: a reward or the embedder needs an extra that is not installed.
        """
        recipe = self.recipe
        named = [(PAIRED, recipe.paired.train), (PAIRED, recipe.paired.held_out)]
        if recipe.text_only is not None:
            named += [(TEXT_ONLY, recipe.text_only.train), (TEXT_ONLY, recipe.text_only.held_out)]
        for task in recipe.tasks:
            tests = (scored.split for scored in task.tests.values())
            named += [(task.name, split) for split in (task.sft, task.rl, task.val, *tests)]
        for source, split in named:
            first = self.examples(source, split)[:1]
            for collators in (self.chats, self.prompts, self.rl_prompts):
                if source in collators and (collators is not self.chats or self._is_trained_on(source, split)):
                    collators[source](first)
        for source in dict.fromkeys(source for source, _ in named):
            splits = {split: self.examples(source, split) for name, split in named if name == source}
            tests = self.tasks[source].tests.values() if source in self.tasks else ()
            require_unique_splits(self._rows(source), splits, [scored.split for scored in tests])
        for task in recipe.tasks:
            _try_reward(task, self.examples(task.name, task.rl)[0])
        load_embedder(recipe.evaluation.embedder)

    def _is_trained_on(self, source: str, split: str) -> bool:
        """Rows of the split go into a loss with their answers; stage 6 and scores only make prompts of theirs."""
        return source not in self.tasks or split in (self.tasks[source].sft, self.tasks[source].val)

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
        backbone = base_backbone(self.recipe.model, self.mesh)
        return init_latent(backbone, self.recipe.latent, jax.random.key(self.recipe.seed), self.mesh)

    def rollout_config(self, task: Task, samples: int, sampling: SamplingConfig) -> RolloutConfig:
        """Rollouts of a task."""
        return RolloutConfig(samples=samples, length=task.answer_length, sampling=sampling)


def _prepare(source: RowSource, folder: Path) -> None:
    try:
        source.prepare(folder)
    except Exception as error:  # writers of records say it in errors of their own
        if is_no_space(error):
            raise NoSpaceError(
                f"{folder}: no space to build the data set in ({error}). Free space on that disk, then run the same "
                "command again."
            ) from error
        raise


def model_config(model: Model) -> QwenConfig:
    """Sizes of a recipe's backbone, and its compute dtype."""
    config = read_model_config(model.path)
    return dataclasses.replace(config, compute_dtype=model.compute_dtype) if model.compute_dtype else config


def base_backbone(model: Model, mesh: Mesh) -> QwenVL:
    """A recipe's backbone before training, float32."""
    return load_model(model.path, mesh, TRAIN, np.float32).replace(config=model_config(model))


def _require_rows(examples: Sequence[Example], source: str, split: str, whole: bool) -> None:
    """Raises DataError for an empty split, a row with other pictures than its source has, or without its answer."""
    if not len(examples):
        where = Where(f"split {split!r} of {source!r}")
        raise DataError(where, None, "no rows", "one row or more", "Add rows, or take a larger share of them.")
    for example in examples:
        if whole:
            require_reference(example)
        if source == PAIRED and not example.images:
            fix = "Add it, or move the row to the text-only rows."
            raise DataError(example.where, "images", "no picture", "a picture in a paired row", fix)
        if source == TEXT_ONLY and example.images:
            fix = "Drop it, or move the row to the paired rows."
            raise DataError(example.where, "images", "a picture", "none in a text-only row", fix)
        if len(example.images) > 1:
            raise DataError(example.where, "images", f"{len(example.images)} pictures", "one", "Keep one of them.")


def _try_reward(task: Task, example: Example) -> None:
    """Scores a reference answer twice, or some text where the row has none."""
    text = example.reference if example.has_reference else example.prompt[-1]["content"]
    found = task.reward([example], [[text] * 2], range(2))
    for verdict in check_verdicts(found, type(task.reward).__name__, 1, 2)[0]:
        if not verdict.ok:
            logger.warning("Task %s: the reward failed on row %s: %s", task.name, example.id, verdict.error)


def sources_of(recipe: Recipe) -> list[RowSource]:
    """Every source of rows of a recipe."""
    corpora = [recipe.paired, *([recipe.text_only] if recipe.text_only is not None else [])]
    return [*(corpus.rows for corpus in corpora), *(task.rows for task in recipe.tasks)]


def content_of(recipe: Recipe) -> dict[str, Any]:
    """Hashes of what a recipe names and does not hold: the model's files, rows of its sources, code of its rewards."""
    return {
        "model": model_content(recipe.model.path),
        "rows": [source.content() for source in sources_of(recipe)],
        "rewards": {t.name: t.reward.content() for t in recipe.tasks if isinstance(t.reward, WithContent)},
    }


def is_of_reward(place: str) -> bool:
    """Whether a place in a run's identity (`recipe.tasks[0].reward.sha256`, say) is a hash of a reward's code."""
    return place.startswith("content.rewards.") or (".reward." in place and place.endswith("sha256"))


def model_content(folder: Path) -> dict[str, str]:
    """A hash of each file that a model is read from, by name.

    Of files above `WHOLE` bytes `BLOCKS` blocks, evenly spread, and the size are hashed: training moves every tensor,
    and reading all of a large model on every host would take as long as loading it.

    Raises:
        FileNotFoundError, CheckpointError: not the folder of a model.
    """
    read_model_config(folder)
    return {path.relative_to(folder).as_posix(): _file_content(path) for path in model_files(folder)}


def _file_content(path: Path) -> str:
    size, digest = path.stat().st_size, hashlib.sha256()
    digest.update(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for index in range(BLOCKS):
                file.seek(index * (size - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
