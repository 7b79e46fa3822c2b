"""What the paper's text says (arXiv 2601.07516), at 3B or 7B, on the real data and with a judge behind an endpoint.

The text leaves a few things open; docs/divergence.md lists them and what is taken here.
"""

from typing import Literal

from lam_jax.data.sources import JsonRows
from lam_jax.recipe import Corpus, Recipe, algorithm_named
from lam_jax.recipes.settings import ANSWERS, ROLLOUTS, mmrole, pcogalign, published
from lam_jax.rewards.judge_config import judge_config
from lam_jax.train.method import METHODS

TaskName = Literal["mmrole", "pcogalign"]
TASKS = {"mmrole": mmrole, "pcogalign": pcogalign}


def recipe(
    model: str,
    paired: str,
    text_only: str,
    data: str,
    images: str,
    judge: str,
    judge_model: str,
    task: TaskName = "mmrole",
    algorithm: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "grpo",
    seed: int = 0,
    judge_settings: tuple[str, ...] = (),
) -> Recipe:
    """The paper's recipe.

    Args:
        model: folder of a Qwen2.5-VL.
        paired, text_only: pre-training JSON files (method.md section 7).
        data, images: the task's raw folder, and the folder of its pictures.
        judge, judge_model: address of an OpenAI-compatible endpoint, and the judge's name there.
        task: which task.
        algorithm: policy gradient of stage 6.
        seed: of everything random.
        judge_settings: NAME=VALUE of other fields of lam_jax.JudgeConfig (docs/judge.md).
    """
    splits = {"train": (0.0, 0.99), "test": (0.99, 1.0)}
    corpora = (Corpus(JsonRows(paired, splits), (2048,)), Corpus(JsonRows(text_only, splits), (2048,)))
    own = TASKS[task](data, images, judge_config(judge, judge_model, judge_settings))
    method, values = METHODS["paper"], algorithm_named(algorithm)
    return published("paper", model, corpora, (own,), method, values, ROLLOUTS, ANSWERS, seed)
