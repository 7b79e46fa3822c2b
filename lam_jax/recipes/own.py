"""Your own rows: a paired file, a text-only file, a task file, a reward.

    lam-jax train own --paired pairs.json --text texts.json --task rows.jsonl --reward mine.py:score --out runs/own

Rows are chats, `{"id", "images": [path], "messages": [{"role", "content"}, ..]}`, without `images` where there is only
text, conversations of LLaVA and ShareGPT, prompts of TRL or problems of EasyR1; the last message is the reference
answer. A row has at most one picture. Files are JSON, JSON Lines, either with .gz or .zst, Parquet, or a folder that
`datasets` saved.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from lam_jax.corpora.built import built_rows
from lam_jax.data.layouts import RowParser
from lam_jax.data.readers import chat_examples, pretraining_examples
from lam_jax.data.sources import JsonRows, RowSource, SplitRows
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
    in_every_space,
)
from lam_jax.recipes.rewards import Rewards, reward_of
from lam_jax.recipes.settings import PUBLISHED, SHIPPED_MODEL, SMALL, SMALL_RL, image_for, stages
from lam_jax.recipes.spaces import in_spaces
from lam_jax.rewards.judge_config import judge_config
from lam_jax.rl import algorithm_named
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.tasks.task import ScoredSplit, Task
from lam_jax.train.method import Method
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.spaces import PAPER_SPACES, SpaceName

SPLITS = {"sft": (0.0, 0.5), "rl": (0.5, 0.85), "val": (0.85, 0.9), "test": (0.9, 1.0)}
# Where the rows with answers are a file of their own.
ANSWERED, ASKED = {"sft": (0.0, 0.9), "val": (0.9, 1.0)}, {"rl": (0.0, 0.85), "test": (0.85, 1.0)}
HELD_OUT = {"train": (0.0, 0.99), "test": (0.99, 1.0)}
# Row, prompt and answer, tokens.
LENGTHS, SHIPPED_LENGTHS = (2048, 1024, 256), (192, 128, 64)


def recipe(
    task: str,
    paired: str,
    text: str | None = None,
    sft: str | None = None,
    reward: Rewards = ("similarity",),
    model: str = SHIPPED_MODEL,
    space: tuple[SpaceName, ...] = PAPER_SPACES,
    emission: float = 0.5,
    algorithm: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"] = "grpo",
    name: str = "own",
    image: tuple[int, int] | None = None,
    image_root: str | None = None,
    picture_folders: tuple[str, ...] = (),
    facts: tuple[str, ...] = (),
    row_length: int | None = None,
    prompt_length: int | None = None,
    answer_length: int | None = None,
    batch: int = 16,
    micro_batches: int = 1,
    epochs: float = 1.0,
    sft_epochs: float = 3.0,
    rl_steps: int = 100,
    validate_every: int = 0,
    prompts: int = 4,
    samples: int = 8,
    rl_lr: float | None = None,
    rl_micro_batches: int = 1,
    temperature: float = 1.0,
    max_failed_steps: int = 5,
    least_usable: float = 0.1,
    overlap_scoring: bool = False,
    seed: int = 0,
    judge: str | None = None,
    judge_model: str | None = None,
    judge_settings: tuple[str, ...] = (),
) -> Recipe:
    """Your own rows, model and reward, with the published settings of the stages.

    Args:
        task: File of the task's rows; half are for SFT, 35 % for RL, 5 % for validation, 10 % are scored.
        paired: File of image-text rows, from which the actions are learned, or a folder of `lam-jax data build`.
        text: File of text-only rows, or a built folder; without it stages 3 and 4 go without.
        sft: File of task rows with reference answers, for SFT and validation; the rows of `task` may then lack theirs,
            if the reward needs none, and 85 % of them are for RL, 15 % are scored.
        reward: "similarity" to the reference answer; "judge" or "judge:role_play"; `file.py:function` or
            `module:function`, where the function takes (examples, answers[N][G]) and gives numbers [N][G] or {part:
            numbers}; several are added up, each may end in `=WEIGHT`. From Python also a function, or a `Reward`.
        model: Folder of a Qwen2.5-VL or Qwen3-VL with its tokenizer. Default: the small one that ships with the
            package.
        space: Action spaces to train.
        emission: Temperature at which rollouts of the hybrid space draw the token under a code.
        algorithm: Policy gradient of stage 6.
        name: Of the task, in phases and results.
        image: Height and width in pixels to which pictures are stretched. Default: 280 420; 288 416 with a Qwen3-VL;
            84 112 with the small model.
        image_root: Folder that relative paths of pictures start from, and that pictures must lie in. Default: that of
            the file with the row.
        picture_folders: Further folders that pictures may lie in, absolute or behind links.
        facts: Other columns that rows may have; a reward finds them in `example.facts`.
        row_length: Most tokens of a training row, longer ones are cut. Default: 2048; 192 with the small model.
        prompt_length: Most tokens of a prompt. Default: 1024; 128 with the small model.
        answer_length: Most tokens of an answer. Default: 256; 64 with the small model.
        batch: Rows of an optimiser step in stages 1 to 4; stage 5 takes a quarter.
        micro_batches: Parts of a batch that run one after the other, to save memory; no number changes but rounding.
        epochs: Passes over the paired rows in each of stages 1 to 4.
        sft_epochs: Passes over the task's rows in stage 5.
        rl_steps: Rollouts in stage 6.
        validate_every: Rollouts between two validations; 0: only before the first and after the last.
        prompts: Of a rollout.
        samples: Of a prompt.
        rl_lr: Learning rate of stage 6. Default: 1e-6; 6e-4 (latent) and 5e-4 (token) with the small model.
        rl_micro_batches: Parts of a rollout's prompts that an update runs one after the other, to save memory.
        temperature: Of sampling, in training and evaluation.
        max_failed_steps: Rollouts in a row with fewer than `least_usable` usable reward calls, after which the run
            stops and says why; 0: never.
        least_usable: Share of a rollout's reward calls.
        overlap_scoring: Rewards are asked for while the next rollout is drawn, from the policy before the update.
        seed: Of everything random.
        judge: Address of an OpenAI-compatible endpoint, for the reward "judge".
        judge_model: The judge's name there.
        judge_settings: NAME=VALUE of other fields of lam_jax.JudgeConfig (docs/judge.md).
    """
    if (judge is None) != (judge_model is None):
        raise ValueError("--judge and --judge-model: found one of them, expected both or none.")
    judged = None if judge is None or judge_model is None else judge_config(judge, judge_model, judge_settings)
    small = model == SHIPPED_MODEL
    lengths = SHIPPED_LENGTHS if small else LENGTHS
    rows, prompt, answer = (
        given or default for given, default in zip((row_length, prompt_length, answer_length), lengths, strict=True)
    )
    sft_batch = max(1, batch // 4)

    rows_parser, texts_parser = chat_examples, pretraining_examples
    if facts or picture_folders:
        rows_parser = RowParser(facts, picture_folders)
        texts_parser = dataclasses.replace(rows_parser, reference=True, tags="text alone")

    def source(file: str, splits: dict[str, tuple[float, float]], parse: Callable[..., Any] = rows_parser) -> JsonRows:
        return JsonRows(file, splits, image_root, parse)

    rows_of_task: RowSource = source(task, SPLITS)
    if sft is not None:
        answered, asked = source(sft, ANSWERED), source(task, ASKED)
        rows_of_task = SplitRows({**dict.fromkeys(ANSWERED, answered), **dict.fromkeys(ASKED, asked)})
    own = Task(
        name,
        name.replace("_", " ").capitalize(),
        rows_of_task,
        reward_of(reward, judged),
        chat_lengths=(rows,),
        prompt_lengths=(prompt,),
        answer_length=answer,
        tests={"id": ScoredSplit("test", "Held-out rows")},
    )
    sampling = in_every_space(SamplingConfig(temperature=temperature))
    found = Recipe(
        name="own",
        seed=seed,
        model=Model(model),
        latent=LATENT_PRESETS["tiny"] if small else LatentConfig(),
        image=image_for(model, image),
        paired=Corpus(built_rows(paired, PAIRED) or source(paired, HELD_OUT), (rows,)),
        text_only=None
        if text is None
        else Corpus(built_rows(text, TEXT_ONLY) or source(text, HELD_OUT, texts_parser), (rows,)),
        tasks=(own,),
        method=Method(text_only=text is not None, remat=not small),
        rl=RLSettings(
            algorithm_named(algorithm),
            SMALL_RL if small and rl_lr is None else in_every_space(OptimiserConfig(rl_lr or 1e-6)),
            sampling,
            steps=rl_steps,
            prompts=prompts,
            samples=samples,
            micro_batches=rl_micro_batches,
            remat=not small,
            validate_every=validate_every,
            max_failed_steps=max_failed_steps,
            least_usable=least_usable,
            overlap_scoring=overlap_scoring,
        ),
        evaluation=EvaluationSettings((AnswerSet(3, sampling),)),
        **stages(
            SMALL if small else PUBLISHED,
            batch,
            sft_batch,
            epochs,
            sft_epochs,
            micro_batches,
            sft_micro_batches=min(micro_batches, sft_batch),
        ),
    )
    return in_spaces(found, space, emission)
