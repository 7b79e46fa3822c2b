"""What the paper's text says (arXiv 2601.07516), at 3B or 7B, on the real data and with a judge behind an endpoint.

The text leaves a few things open; docs/divergence.md lists them and what is taken here. Prompts are as short as it
says, 1,024 tokens for MMRole and 512 for PCogAlignBench, and longer ones are cut on the left: with the published
tokenizer and 150 tokens of picture that are 87 % of MMRole's RL prompts, whose median is 2,178 tokens and whose longest
has 2,820. The recipes `mmrole` and `pcogalign` have room for all.
"""

from typing import Literal

from lam_jax.corpora.built import built_rows
from lam_jax.data.sources import JsonRows
from lam_jax.recipe import PAIRED, TEXT_ONLY, Corpus, Recipe
from lam_jax.recipes.settings import ANSWERS, ROLLOUTS, judges, mmrole, pcogalign, published
from lam_jax.rewards.judge_config import judge_config
from lam_jax.rl import algorithm_named
from lam_jax.train.method import METHODS

TaskName = Literal["mmrole", "pcogalign"]
TASKS = {"mmrole": mmrole, "pcogalign": pcogalign}


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
    seed: int = 0,
    judge_settings: tuple[str, ...] = (),
    evaluation_judge: str | None = None,
    evaluation_judge_model: str | None = None,
) -> Recipe:
    """The paper's recipe.

    Args:
        model: folder of a Qwen2.5-VL.
        paired, text: pre-training files (method.md section 7), or folders of `lam-jax data build`.
        raw, images: the task's raw folder, and the folder of its pictures.
        judge, judge_model: address of an OpenAI-compatible endpoint, and the judge's name there.
        evaluation_judge, evaluation_judge_model: the same of the judge that scores the test rows; default: the judge of
            training, which is warned of.
        task: which task.
        algorithm: policy gradient of stage 6.
        seed: of everything random.
        judge_settings: NAME=VALUE of other fields of lam_jax.JudgeConfig (docs/judge.md).
    """
    splits = {"train": (0.0, 0.99), "test": (0.99, 1.0)}
    corpora = (
        Corpus(built_rows(paired, PAIRED) or JsonRows(paired, splits), (2048,)),
        Corpus(built_rows(text, TEXT_ONLY) or JsonRows(text, splits), (2048,)),
    )
    given = judge_config(judge, judge_model, judge_settings)
    trainer, examiner = judges(given, evaluation_judge, evaluation_judge_model)
    own = TASKS[task](raw, images, trainer, examiner)
    method, values = METHODS["paper"], algorithm_named(algorithm)
    return published("paper", model, corpora, (own,), method, values, ROLLOUTS, ANSWERS, seed)
