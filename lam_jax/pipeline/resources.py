"""What a recipe's stages draw on, opened: rows, collators, loaders, tokenizer, backbone."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lam_jax.corpora.built import BuiltExamples
from lam_jax.data.bad_rows import BadRowError, Skip, Skipped, Tally, hinted, tolerant, too_many
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collated, Collator, CollatorConfig
from lam_jax.data.lengths import Lengths, measure_lengths
from lam_jax.data.loader import Loader, LoaderConfig, Placed, in_order
from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.data.sources import RowSource, require_unique_splits
from lam_jax.errors import NoSpaceError, RewardError
from lam_jax.formats.model_folder import load_model, read_model_config, tokenizer_folder
from lam_jax.latent.agent import Agent, init_latent
from lam_jax.models.backbone import Backbone
from lam_jax.models.config import BackboneConfig
from lam_jax.models.inputs import Batch
from lam_jax.models.processor import ImageSettings
from lam_jax.models.tokenizer import read_tokenizer
from lam_jax.parallel import TRAIN, place
from lam_jax.parallel.multihost import all_agree, barrier, is_first
from lam_jax.parallel.rows import from_own_rows, own_rows
from lam_jax.pipeline.content import sources_of
from lam_jax.pipeline.skipped import SkipLog
from lam_jax.pipeline.usable import usable
from lam_jax.recipe import PAIRED, TEXT_ONLY, Corpus, Model, Recipe
from lam_jax.rewards.embedding import load_embedder
from lam_jax.rewards.judge import judges_of, require_usable
from lam_jax.rewards.reward import Reward, check_verdicts
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.disk import is_no_space
from lam_jax.tasks.episodes import pictures_of
from lam_jax.tasks.task import Task

logger = logging.getLogger("lam_jax")


@dataclasses.dataclass
class Resources:
    """An opened recipe. Rows go by their source: "paired", "text_only", or a task's name.

    Attributes:
        recipe: which.
        folder: where sources keep what they build.
        mesh, rollout_mesh: of all devices of the run, for training and for answers; None: `mesh`.
        config: of the backbone.
        tokenizer: the backbone's.
        chats, prompts: collators of whole chats and of prompts, by source.
        rl_prompts: collators of stage 6's prompts, by task.
        skipped: bad rows, where the recipe says to skip them.
    """

    recipe: Recipe
    folder: Path
    mesh: Mesh
    config: BackboneConfig
    tokenizer: Any
    chats: dict[str, Collator]
    prompts: dict[str, Collator]
    rl_prompts: dict[str, Collator]
    skipped: SkipLog = dataclasses.field(default_factory=SkipLog)
    rollout_mesh: Mesh | None = None
    _read: dict[tuple[str, str], Sequence[Example]] = dataclasses.field(default_factory=dict, repr=False)
    _tallies: dict[str, Tally] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls, recipe: Recipe, folder: Path, mesh: Mesh, workers: int = 0, run_folder: Path | None = None
    ) -> "Resources":
        """Builds what the sources need in `folder` (the first process does) and opens the rest.

        Args:
            recipe, folder, mesh: see above.
            workers: processes that decode pictures; 0: this one does.
            run_folder: where skipped rows are listed; None: nowhere.

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
        skipped = SkipLog(run_folder if recipe.bad_rows == "skip" else None)

        def collator(name: str, config: CollatorConfig) -> Collator:
            config = dataclasses.replace(config, max_images=pictures_of(recipe.tasks, name))
            skip = Skip(functools.partial(skipped.note, name), recipe.max_bad_share)
            return Collator(encoder, config, workers, skip if recipe.bad_rows == "skip" else None)

        def prompt_collator(name: str, lengths: tuple[int, ...], image: ImageSettings) -> Collator:
            header = recipe.keep_prompt_header
            config = CollatorConfig(lengths, kind="prompt", padding="left", image=image, keep_header=header)
            return collator(name, config)

        found = cls(
            recipe,
            folder,
            mesh,
            config,
            tokenizer,
            {
                name: collator(name, CollatorConfig(lengths, padding=recipe.padding, image=recipe.image))
                for name, lengths in chats.items()
            },
            {name: prompt_collator(name, lengths, recipe.image) for name, lengths in prompts.items()},
            {t.name: prompt_collator(t.name, t.prompt_lengths, recipe.rl.image or recipe.image) for t in recipe.tasks},
            skipped,
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
        """A split of a source; read once. Rows that cannot be used are left out where the recipe skips them.

        Raises:
            DataError: rows that cannot be read or none, or a row with too many pictures or too few for its source; too
                many such rows, where they are skipped.
        """
        key = source, split
        if key not in self._read:
            self._read[key] = self._good(source, split) if self.recipe.bad_rows == "skip" else self._all(source, split)
        return self._read[key]

    def first(self, source: str, split: str, count: int) -> Sequence[Example]:
        """The first rows of a split; of those that can be used, where the recipe skips the others."""
        if self.recipe.bad_rows != "skip":
            return self.examples(source, split)[:count]
        return list(itertools.islice(self._usable(source, split, self.examples(source, split)), count))

    def _all(self, source: str, split: str) -> Sequence[Example]:
        with hinted():
            found = self._rows(source).read(self.folder, split)
            usable(found, source, self._is_trained_on(source, split), None, self.recipe.tasks)
        if not len(found):
            where = Where(f"split {split!r} of {source!r}")
            raise DataError(where, None, "no rows", "one row or more", "Add rows, or take a larger share of them.")
        return found

    def _good(self, source: str, split: str) -> Sequence[Example]:
        """The rows that a reader takes; where none of them can be used, one of those that are trained on, if it may."""
        trained = self._trained_split(source)
        if split != trained:
            self.examples(source, trained)
        # A row with the id of one in an earlier split is left out, so those are read first.
        splits = self._splits(source)
        earlier = (
            {name: self.examples(source, name) for name in splits[: splits.index(split)]} if split in splits else {}
        )
        with tolerant() as tally:
            found = self._rows(source).read(self.folder, split)
            self._require_unique(source, {**earlier, split: found})
            found = usable(found, source, self._is_trained_on(source, split), tally, self.recipe.tasks)
        # The share is that of the source, as far as it was read: a split may be a row or two.
        whole = self._tallies.setdefault(source, Tally())
        whole.add(tally)
        if tally.dropped:
            self.skipped.dropped(source, tally)
            logger.warning("%s, split %r: %s", source, split, tally)
            if len(whole.dropped) > self.recipe.max_bad_share * len(whole.rows):
                example = next(iter(whole.dropped.values())).text
                raise too_many(len(whole.dropped), len(whole.rows), self.recipe.max_bad_share, example)
        if next(self._usable(source, split, found), None) is not None:
            return found
        if not self._may_stand_in(source, split):
            where = Where(f"split {split!r} of {source!r}")
            bad = f"no row that can be used: {tally}, {len(found)} of which no batch can be made"
            raise DataError(where, None, bad, "one or more", "Correct the rows; `lam-jax data check` lists them.")
        logger.warning("%s, split %r: no row of it can be used; a row of %r stands in.", source, split, trained)
        return self.first(source, trained, 1)

    def _usable(self, source: str, split: str, examples: Sequence[Example]) -> Iterator[Example]:
        """Those of which a batch can be made, as they are asked for."""
        collators = self.chats if self._is_trained_on(source, split) else self.rl_prompts
        for example in examples:
            try:
                collators[source].begin(example)()
            except BadRowError as error:
                self.skipped.note(source, [Skipped.of(example, error, 0)])
            else:
                yield example

    def _corpus(self, source: str) -> Corpus | None:
        return {PAIRED: self.recipe.paired, TEXT_ONLY: self.recipe.text_only}.get(source)

    def _splits(self, source: str) -> list[str]:
        """The splits of a source that a run reads, those that are trained on first."""
        corpus = self._corpus(source)
        if corpus is not None:
            return [corpus.train, corpus.held_out]
        task = self.tasks[source]
        return list(dict.fromkeys((task.sft, task.rl, task.val, *(scored.split for scored in task.tests.values()))))

    def _require_unique(self, source: str, splits: Mapping[str, Sequence[Example]]) -> None:
        # Built rows had their ids compared when they were built; where the other side is longer they come again.
        read = {split: rows for split, rows in splits.items() if not isinstance(rows, BuiltExamples)}
        tests = self.tasks[source].tests.values() if source in self.tasks else ()
        require_unique_splits(self._rows(source), read, [scored.split for scored in tests])

    def _trained_split(self, source: str) -> str:
        corpus = self._corpus(source)
        return self.tasks[source].sft if corpus is None else corpus.train

    def _may_stand_in(self, source: str, split: str) -> bool:
        """A row that is trained on may stand in for rows that only watch training, not for scored ones."""
        corpus = self._corpus(source)
        return split == (self.tasks[source].val if corpus is None else corpus.held_out)

    def try_out(self) -> None:
        """Reads all rows and uses collators, rewards and embedder once: what cannot work fails before training.

        Raises:
            DataError: rows that cannot be used, or two with one id.
            RewardShapeError: a reward gave something else than a verdict an answer.
            ImportError: a reward or the embedder needs an extra that is not installed.
            JudgeError: a judge cannot be reached, refuses every call or gives nothing that can be read.
        """
        recipe = self.recipe
        corpora = (PAIRED, TEXT_ONLY) if recipe.text_only is not None else (PAIRED,)
        named = [(source, split) for source in (*corpora, *self.tasks) for split in self._splits(source)]
        for source, split in named:
            for collators in (self.chats, self.prompts, self.rl_prompts):
                if source in collators and (collators is not self.chats or self._is_trained_on(source, split)):
                    next(in_order(self.examples(source, split), collators[source], 1))
        for source in dict.fromkeys(source for source, _ in named):
            self._require_unique(source, {split: self.examples(source, split) for split in self._splits(source)})
        failure: Exception | None = None
        for task in recipe.tasks:
            try:
                for reward in rewards_of_task(task):
                    _try_reward(task, reward, self.examples(task.name, task.rl))
            except Exception as error:
                failure = failure or error
        # A judge may fail on one process alone, and the others would wait for it.
        if not all_agree(failure is None):
            raise failure or RewardError("A reward failed on another process; its message says where.")
        load_embedder(recipe.evaluation.embedder)

    def lengths(self) -> list[Lengths]:
        """Tokens of the rows that are trained on, of prompts and of test prompts, against the largest bucket of each.

        Raises:
            DataError: rows that cannot be used.
        """
        recipe = self.recipe
        looked: list[tuple[str, dict[str, Collator], str, str]] = [
            ("paired rows", self.chats, PAIRED, recipe.paired.train)
        ]
        if recipe.text_only is not None:
            looked.append(("text-only rows", self.chats, TEXT_ONLY, recipe.text_only.train))
        for task in recipe.tasks:
            looked.append((f"{task.name}, chats of stage 5", self.chats, task.name, task.sft))
            looked.append((f"{task.name}, prompts of stage 6", self.rl_prompts, task.name, task.rl))
            for key, scored in task.tests.items():
                looked.append((f"{task.name}, test prompts ({key})", self.prompts, task.name, scored.split))
        return [
            measure_lengths(name, collators[source], self.examples(source, split))
            for name, collators, source, split in looked
        ]

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
        place_rows = functools.partial(from_own_rows, rows=own, size=rows, mesh=self.mesh, rules=TRAIN)

        def placed(made: Collated) -> Batch:
            if self.recipe.bad_rows == "skip":
                self.skipped.count(made.skipped, own, rows, self.mesh)
            return place_rows(made.batch)

        return Placed(loader, placed, functools.partial(_cuts, place_rows)), len(examples)

    def held_out(self, source: str, split: str) -> Batch:
        """The first rows of a split, on the mesh."""
        rows, examples = self.recipe.evaluation.held_out, self.examples(source, split)
        # Where bad rows are skipped, the first ones may all be bad.
        chosen = examples if self.recipe.bad_rows == "skip" else examples[:rows]
        first = next(in_order(chosen, self.chats[source], rows)).batch
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


def _cuts(place_rows: Callable[[Any], Any], made: Collated) -> dict[str, Any]:
    """Metrics of what was cut of a batch, over the rows of all processes."""
    cuts = {"rows_cut": made.cuts.rows, "tokens_cut": made.cuts.tokens}
    if jax.process_count() == 1:
        return {name: float(value) for name, value in cuts.items()}
    # A sum on the devices: nobody waits for it before the step's other metrics.
    count = len(made.batch.tokens)
    own = {name: np.array([value, *[0] * (count - 1)], np.float32) for name, value in cuts.items()}
    return _totals(place_rows(own))


@jax.jit
def _totals(cuts: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(jnp.sum, cuts)


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


def model_config(model: Model) -> BackboneConfig:
    """Sizes of a recipe's backbone, and its compute dtype."""
    config = read_model_config(model.path)
    return config.changed(compute_dtype=model.compute_dtype) if model.compute_dtype else config


def base_backbone(model: Model, mesh: Mesh) -> Backbone:
    """A recipe's backbone before training, float32."""
    return load_model(model.path, mesh, TRAIN, np.float32).replace(config=model_config(model))


def _try_reward(task: Task, reward: Reward, examples: Sequence[Example]) -> None:
    """Scores the reference answer of a row twice, or some text where it has none; of more rows if a judge fails."""
    judged = bool(judges_of(reward))
    if judged and not is_first():
        return
    name, tried = type(reward).__name__, []
    for example in examples[: 3 if judged else 1]:
        text = example.reference if example.has_reference else example.prompt[-1]["content"]
        verdicts = check_verdicts(reward([example], [[text] * 2], range(2)), name, 1, 2)[0]
        for verdict in verdicts:
            if not verdict.ok:
                logger.warning("Task %s: the reward failed on row %s: %s", task.name, example.id, verdict.error)
        tried += verdicts
        if any(verdict.ok for verdict in verdicts):
            return
    require_usable(reward, tried, f"Task {task.name}")


def rewards_of_task(task: Task) -> list[Reward]:
    """Of training, and of the tests where that is another one."""
    return [task.reward] if task.examiner is task.reward else [task.reward, task.examiner]
