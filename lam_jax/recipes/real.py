"""What the recipes `mmrole` and `pcogalign` share: a whole run from raw files, its rewards from a judge."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from lam_jax.corpora.built import built_rows
from lam_jax.data.layouts import RowParser
from lam_jax.data.readers import pretraining_examples
from lam_jax.data.sources import JsonRows
from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.latent.config import LATENT_PRESETS, LatentConfig
from lam_jax.recipe import (
    PAIRED,
    TEXT_ONLY,
    AnswerSet,
    Corpus,
    EvaluationSettings,
    Model,
    Recipe,
    RLSettings,
)
from lam_jax.recipes.settings import (
    ANSWERS,
    PUBLISHED,
    ROLLOUTS,
    SHIPPED_MODEL,
    SMALL,
    SMALL_RL,
    Lengths,
    Optimisers,
    evaluation,
    image_for,
    reinforcement,
    stages,
)
from lam_jax.recipes.spaces import in_spaces
from lam_jax.rewards.judge import warn_same_judge
from lam_jax.rewards.judge_config import JudgeConfig, judge_config
from lam_jax.rl import algorithm_named
from lam_jax.tasks.task import Task
from lam_jax.train.method import METHODS
from lam_jax.train.spaces import PAPER_SPACES, SpaceName

STAGES_1_TO_4 = ("inverse", "projector", "joint", "cloning")
HELD_OUT = {"train": (0.0, 0.99), "test": (0.99, 1.0)}
Preset = Literal["published", "tiny"]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A task with raw files in a layout of its own, and a judge.

    Attributes:
        title: in help texts.
        task: makes the task: (raw folder, pictures, judge, judge of evaluation or None, lengths).
        lengths: with room for the real rows.
    """

    title: str
    task: Callable[[str, str, JudgeConfig, JudgeConfig | None, Lengths], Task]
    lengths: Lengths


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a preset chooses.

    Attributes:
        model: folder of the backbone; None: the user's.
        latent, lengths: of the recipe and its task; lengths None: the benchmark's.
        row: most tokens of a row in stages 1 to 4.
        optimisers: of stages 1 to 5.
        batch: rows of a step in stages 1 to 4.
        steps: of each of stages 1 to 5; None: one epoch, three in stage 5.
        rl, evaluation: of the recipe.
    """

    model: str | None
    latent: LatentConfig
    lengths: Lengths | None
    row: int
    optimisers: Optimisers
    batch: int
    steps: int | None
    rl: RLSettings
    evaluation: EvaluationSettings


SIZES: dict[Preset, Sizes] = {
    "published": Sizes(
        model=None,
        latent=LatentConfig(),
        lengths=None,
        row=2048,
        optimisers=PUBLISHED,
        batch=16,
        steps=None,
        rl=reinforcement(algorithm_named("grpo"), ROLLOUTS, remat=True),
        evaluation=evaluation(ANSWERS),
    ),
    # To try one's files, judge and machine: what it learns means nothing.
    "tiny": Sizes(
        model=SHIPPED_MODEL,
        latent=LATENT_PRESETS["tiny"],
        lengths=Lengths(chat=(288,), prompt=(256,), answer=32),
        row=128,
        optimisers=SMALL,
        batch=8,
        steps=12,
        rl=RLSettings(algorithm_named("grpo"), SMALL_RL, ROLLOUTS, steps=4, prompts=2, samples=4),
        evaluation=EvaluationSettings(
            (AnswerSet(3, ANSWERS),),
            prompts=8,
            gain_prompts=8,
            batch=8,
            held_out=8,
            shown=4,
            least_used_share=0.0,  # after a few steps the codes of a new codebook say nothing about collapse
            reach=ReachSettings(rows=8, prompts=4, samples=2, least_gain=None, least_lead=None),
        ),
    ),
}


def whole(
    benchmark: Benchmark,
    raw: str,
    paired: str,
    judge: str,
    judge_model: str,
    images: str | None = None,
    text: str | None = None,
    image_root: str | None = None,
    picture_folders: tuple[str, ...] = (),
    model: str | None = None,
    evaluation_judge: str | None = None,
    evaluation_judge_model: str | None = None,
    reference_writer: str | None = None,
    judge_settings: tuple[str, ...] = (),
    evaluation_judge_settings: tuple[str, ...] = (),
    preset: Preset = "published",
    space: tuple[SpaceName, ...] = PAPER_SPACES,
    emission: float = 0.5,
    algorithm: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"] = "grpo",
    method: Literal["default", "paper"] = "default",
    prompt_lengths: tuple[int, ...] | None = None,
    chat_lengths: tuple[int, ...] | None = None,
    answer_length: int | None = None,
    row_length: int | None = None,
    rows: int | None = None,
    batch: int | None = None,
    micro_batches: int = 1,
    sft_micro_batches: int = 1,
    epochs: float | None = None,
    sft_epochs: float | None = None,
    rl_steps: int | None = None,
    prompts: int | None = None,
    samples: int | None = None,
    rl_micro_batches: int = 1,
    validate_every: int = 0,
    max_failed_steps: int | None = None,
    least_usable: float | None = None,
    overlap_scoring: bool | None = None,
    evaluation_prompts: int | None = None,
    embedder: str | None = None,
    seed: int = 0,
) -> Recipe:
    """A whole run from raw files with a judge, with the released settings of all stages.

    Args:
        benchmark: Which.
        raw: The task's raw folder (docs/real_data.md), or one that `lam-jax data build` made of it.
        paired: File of image-text rows, from which the actions are learned (method.md section 7), or a folder of
            `lam-jax data build`.
        judge: Address of an OpenAI-compatible endpoint, such as http://localhost:8000/v1.
        judge_model: The judge's name there.
        images: Folder that the picture paths of the raw files start from. Default: the raw folder.
        text: File of text-only rows, or a built folder; without it stages 3 and 4 go without.
        image_root: Folder that the picture paths of `paired` start from, and that pictures must lie in. Default: that
            of the file.
        picture_folders: Further folders that pictures of `paired` may lie in, absolute or behind links.
        model: Folder of a Qwen2.5-VL or Qwen3-VL with its tokenizer. Default with `tiny`: the small one that ships with
            the package.
        evaluation_judge: Address of the judge that scores the test rows. Default: that of `judge`.
        evaluation_judge_model: Its name. Default: the same judge as in training, which is warned of.
        reference_writer: Name of the model that wrote the reference answers, if known: only for that warning.
        judge_settings: `NAME=VALUE` of other fields of lam_jax.JudgeConfig, such as concurrency=8 timeout_s=60; of
            both judges.
        evaluation_judge_settings: The same, of the judge of evaluation alone.
        preset: "tiny" tries files, judge and machine in minutes, with the small model, short rows and few steps.
        space: Action spaces to train.
        emission: Temperature at which rollouts of the hybrid space draw the token under a code.
        algorithm: Policy gradient of stage 6.
        method: "paper": what the paper's text says (docs/divergence.md).
        prompt_lengths: Buckets of prompts, tokens; longer ones are cut on the left. Default: room for the real ones.
        chat_lengths: Buckets of whole chats in stage 5; longer ones are cut on the right.
        answer_length: Most tokens of an answer.
        row_length: Most tokens of a row in stages 1 to 4. Default: 2048; 128 with `tiny`.
        rows: Of each of the files `paired` and `text` that are used. Default: all.
        batch: Rows of an optimiser step in stages 1 to 4; stage 5 takes a quarter. Default: 16; 8 with `tiny`.
        micro_batches: Parts of a batch of stages 1 to 4 that run one after the other, to save memory; no number changes
            but rounding.
        sft_micro_batches: The same in stage 5.
        epochs: Passes over the paired rows in each of stages 1 to 4. Default: 1; 12 steps with `tiny`.
        sft_epochs: Passes over the task's rows in stage 5. Default: 3; 12 steps with `tiny`.
        rl_steps: Rollouts in stage 6. Default: 100; 4 with `tiny`.
        prompts: Of a rollout. Default: 4; 2 with `tiny`.
        samples: Of a prompt. Default: 8; 4 with `tiny`.
        rl_micro_batches: Parts of a rollout's prompts that an update runs one after the other, to save memory.
        validate_every: Rollouts between two validations; 0: only before the first and after the last.
        max_failed_steps: Rollouts in a row with fewer usable calls of the judge than `least_usable`, after which the
            run stops and says why; 0: never. Default: 5.
        least_usable: Share of a rollout's calls. Default: 0.1.
        overlap_scoring: The judge is asked while the next rollout is drawn, from the policy before the update; not with
            DAPO. Default: it is not.
        evaluation_prompts: Of each test split, the first ones. Default: all; 8 with `tiny`.
        embedder: Of diversity: a name or folder for sentence-transformers, or "hashing", which counts
            words. Default: BAAI/bge-m3; hashing with `tiny`.
        seed: Of everything random.

    Raises:
        ValueError: no model with `published`, a judge's setting that there is none of, or sizes that do not fit.
    """
    sizes, large = SIZES[preset], preset == "published"
    folder = model or sizes.model
    if folder is None:
        raise ValueError(
            "--model: found none, expected the folder of a Qwen2.5-VL or Qwen3-VL; --preset tiny needs none."
        )
    policy, lengths = algorithm_named(algorithm), sizes.lengths or benchmark.lengths
    lengths = Lengths(chat_lengths or lengths.chat, prompt_lengths or lengths.prompt, answer_length or lengths.answer)
    trainer = judge_config(judge, judge_model, judge_settings)
    examiner = judge_config(
        evaluation_judge or judge,
        evaluation_judge_model or judge_model,
        (*judge_settings, *evaluation_judge_settings),
    )
    warn_same_judge(trainer.model, examiner.model, reference_writer)
    own = benchmark.task(raw, images or raw, trainer, None if examiner == trainer else examiner, lengths)

    parse: Callable[..., Any] = pretraining_examples
    if picture_folders:
        parse = RowParser(picture_folders=picture_folders, reference=True, tags="text alone")

    def corpus(file: str, side: str) -> Corpus:
        built = built_rows(file, side)
        found = JsonRows(file, HELD_OUT, image_root, parse, limit=rows)
        return Corpus(dataclasses.replace(built, limit=rows) if built else found, (row_length or sizes.row,))

    settings = {
        "steps": rl_steps,
        "prompts": prompts,
        "samples": samples,
        "micro_batches": rl_micro_batches,
        "validate_every": validate_every,
        "max_failed_steps": max_failed_steps,
        "least_usable": least_usable,
        "overlap_scoring": overlap_scoring,
    }
    measured = {"prompts": evaluation_prompts, "embedder": embedder}
    found = Recipe(
        name=own.name if large else f"{own.name} ({preset})",
        seed=seed,
        model=Model(folder),
        latent=sizes.latent,
        image=image_for(folder),
        paired=corpus(paired, PAIRED),
        text_only=None if text is None else corpus(text, TEXT_ONLY),
        tasks=(own,),
        method=dataclasses.replace(METHODS[method], text_only=text is not None, remat=large),
        rl=dataclasses.replace(sizes.rl, algorithm=policy, **_given(settings)),
        evaluation=dataclasses.replace(sizes.evaluation, **_given(measured)),
        **stages(
            sizes.optimisers,
            batch or sizes.batch,
            max(1, (batch or sizes.batch) // 4),
            epochs or 1,
            sft_epochs or 3,
            micro_batches,
            sft_micro_batches,
        ),
    )
    found = in_spaces(found, space, emission)
    return found if sizes.steps is None else _for_steps(found, sizes.steps, epochs, sft_epochs)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _for_steps(recipe: Recipe, steps: int, epochs: float | None, sft_epochs: float | None) -> Recipe:
    """The recipe with so many steps of the stages whose epochs were not given."""
    names = [*(STAGES_1_TO_4 if epochs is None else ()), *(("sft",) if sft_epochs is None else ())]
    short = {name: dataclasses.replace(getattr(recipe, name), steps=steps, epochs=None) for name in names}
    return dataclasses.replace(recipe, **short)


def bound(
    function: Callable[..., Recipe], text: str, change: Callable[[Recipe], Recipe] | None = None, **values: Any
) -> Callable[..., Recipe]:
    """A recipe's function with some parameters bound to values, which are then no flags any more.

    Args:
        function: which.
        text: first line of the docstring.
        change: of the recipe that it gives.
        **values: of the parameters.
    """

    @functools.wraps(function)
    def recipe(**given: Any) -> Recipe:
        found = function(**values, **given)
        return change(found) if change else found

    signature = inspect.signature(function)
    kept = [p.replace(kind=p.KEYWORD_ONLY) for name, p in signature.parameters.items() if name not in values]
    recipe.__dict__["__signature__"] = signature.replace(parameters=kept)
    recipe.__doc__ = "\n".join([text, *(function.__doc__ or "").split("\n")[1:]])
    return recipe
