"""What the code that the paper's authors released does, where it differs from the text (docs/divergence.md).

The released stack lets the checkpoint's generation_config override library defaults: temperature 1e-6 and a repetition
penalty of 1.05. `token_rollouts` has the baseline both ways: "overridden" as that gives it, "plain" at temperature 1.
"""

import dataclasses
from typing import Literal

from lam_jax.data.readers import released_examples
from lam_jax.data.sources import JsonRows
from lam_jax.models.processor import ImageSettings
from lam_jax.recipe import Corpus, Recipe
from lam_jax.recipes.paper import TASKS, TaskName
from lam_jax.recipes.settings import ANSWERS, ROLLOUTS, judges, published
from lam_jax.rewards.judge_config import judge_config
from lam_jax.rl import algorithm_named
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import METHODS

PENALTY = 1.05
# Temperature 1e-6 leaves the most likely token; the loss scores temperature 1, as a greedy choice is scored.
GREEDY = SamplingConfig(temperature=0.0)


def _released(sampling: dict[str, SamplingConfig]) -> dict[str, SamplingConfig]:
    return {
        space: dataclasses.replace(value, repetition_penalty=PENALTY).official() for space, value in sampling.items()
    }


def recipe(
    model: str,
    paired: str,
    text: str,
    raw: str,
    images: str,
    judge: str,
    judge_model: str,
    task: TaskName = "mmrole",
    algorithm: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "grpo",
    token_rollouts: Literal["overridden", "plain"] = "overridden",
    rows: int = 2500,
    seed: int = 0,
    judge_settings: tuple[str, ...] = (),
    evaluation_judge: str | None = None,
    evaluation_judge_model: str | None = None,
) -> Recipe:
    """The released code's recipe; arguments as of `lam_jax.recipes.paper`.

    Args:
        model: folder of a Qwen2.5-VL.
        paired, text: pre-training JSON files; literal `<image>` tags are kept as text.
        raw, images: the task's raw folder, and the folder of its pictures.
        judge, judge_model: address of an OpenAI-compatible endpoint, and the judge's name there.
        evaluation_judge, evaluation_judge_model: the same of the judge that scores the test rows; default: the judge of
            training, which is warned of.
        task: which task.
        algorithm: policy gradient of stage 6.
        token_rollouts: how the token baseline samples; see the file's first lines.
        rows: of each pre-training file that are used.
        seed: of everything random.
        judge_settings: NAME=VALUE of other fields of lam_jax.JudgeConfig (docs/judge.md).
    """
    splits = {"train": (0.0, 0.99), "test": (0.99, 1.0)}
    corpora = tuple(
        Corpus(JsonRows(file, splits, parse=released_examples, limit=rows), (2048,)) for file in (paired, text)
    )
    plain = token_rollouts == "plain"
    sampling = _released(ROLLOUTS if plain else {**ROLLOUTS, "token": GREEDY})
    if plain:
        sampling["token"] = ROLLOUTS["token"].official()
    given = judge_config(judge, judge_model, judge_settings).official()
    trainer, examiner = judges(given, evaluation_judge, evaluation_judge_model)
    own = TASKS[task](raw, images, trainer, examiner)
    found = published(
        "official",
        model,
        (corpora[0], corpora[1]),
        (own,),
        METHODS["official"],
        algorithm_named(algorithm).official(),
        sampling,
        _released(ANSWERS),
        seed,
        micro_batches=(4, 4),
        accumulation="mean_of_means",
        image=ImageSettings(size=(420, 280)),
    )
    return dataclasses.replace(found, padding="left", keep_prompt_header=False)
