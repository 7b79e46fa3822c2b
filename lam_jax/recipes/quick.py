"""Any recipe as a smoke run: every stage, space, measure and file, a few steps of each."""

import dataclasses
import math

from lam_jax.data.sources import shrunk
from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.models.processor import ImageSettings, image_tokens
from lam_jax.recipe import Corpus, Recipe, StageSettings
from lam_jax.tasks.episodes import turns_of
from lam_jax.tasks.task import Task

STAGE_STEPS, RL_STEPS = 3, 2
ROWS = 4  # of a batch
PROMPTS, SAMPLES = 2, 4  # of a rollout
TEXT, ANSWER = 106, 32  # tokens of text in a row beside its picture, and of an answer
SCORED = 8  # prompts of a split
READ = 128  # rows of a source


def quick(recipe: Recipe) -> Recipe:
    """The recipe with few steps, small batches and short rows; what it learns means nothing."""
    room = TEXT + _image_tokens(recipe.image)
    stages = {name: _stage(getattr(recipe, name)) for name in ("inverse", "projector", "joint", "cloning", "sft")}
    rl, evaluation = recipe.rl, recipe.evaluation
    answer = min(ANSWER, *(task.answer_length for task in recipe.tasks))
    return dataclasses.replace(
        recipe,
        name=f"{recipe.name} (quick)",
        paired=_corpus(recipe.paired, room),
        text_only=None if recipe.text_only is None else _corpus(recipe.text_only, room),
        tasks=tuple(_task(task, room + (turns_of(task) - 1) * _image_tokens(recipe.image)) for task in recipe.tasks),
        rl=dataclasses.replace(
            rl,
            steps=min(rl.steps, RL_STEPS),
            prompts=min(rl.prompts, PROMPTS * rl.mini_batches),
            micro_batches=math.gcd(rl.micro_batches, min(rl.prompts // rl.mini_batches, PROMPTS)),
            samples=min(rl.samples, SAMPLES),
            update_lengths=tuple(n for n in rl.update_lengths if n < answer),
        ),
        evaluation=dataclasses.replace(
            evaluation,
            answers=tuple(dataclasses.replace(answers, samples=2) for answers in evaluation.answers[:1]),
            prompts=min(evaluation.prompts or SCORED, SCORED),
            gain_prompts=min(evaluation.gain_prompts, SCORED),
            batch=min(evaluation.batch, SCORED),
            held_out=min(evaluation.held_out, SCORED),
            shown=min(evaluation.shown, SCORED),
            backbone=None,
            reach=None if evaluation.reach is None else _reach(evaluation.reach),
            least_used_share=0.0,  # after a few steps the codes of a new codebook say nothing about collapse
        ),
        **stages,
    )


def _reach(settings: ReachSettings) -> ReachSettings:
    """Codes of a few steps move nothing, and nobody is warned of it."""
    return dataclasses.replace(
        settings,
        rows=min(settings.rows, SCORED),
        prompts=min(settings.prompts, PROMPTS),
        samples=min(settings.samples, SAMPLES),
        least_gain=None,
        least_lead=None,
    )


def _image_tokens(image: ImageSettings) -> int:
    if image.size is None:
        return image.max_pixels // image.factor**2
    return image_tokens(image.grid(*image.size), image.merge_size)


def _stage(settings: StageSettings) -> StageSettings:
    parts = min(settings.micro_batches, 2)
    steps = min(settings.steps or STAGE_STEPS, STAGE_STEPS)
    return dataclasses.replace(settings, rows=min(settings.rows, ROWS), steps=steps, epochs=None, micro_batches=parts)


def _corpus(corpus: Corpus, room: int) -> Corpus:
    prompts = None if corpus.prompt_lengths is None else (min(corpus.prompt_lengths[-1], room),)
    rows = shrunk(corpus.rows, READ)
    return dataclasses.replace(corpus, rows=rows, lengths=(min(corpus.lengths[-1], room),), prompt_lengths=prompts)


def _task(task: Task, room: int) -> Task:
    return dataclasses.replace(
        task,
        rows=shrunk(task.rows, READ),
        chat_lengths=(min(task.chat_lengths[-1], room + ANSWER),),
        prompt_lengths=(min(task.prompt_lengths[-1], room),),
        answer_length=min(task.answer_length, ANSWER),
    )
