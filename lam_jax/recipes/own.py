"""Your own rows: a paired file, a text-only file, a task file, a reward.

Paired and text-only rows are `{"id", "images": [path], "messages": [{"role", "content"}, ..]}`, without `images` where
there is only text; task rows may have `image` or `images`, and their last message is the reference answer. A row has at
most one picture.
"""

import importlib
from typing import Literal

from lam_jax.data.readers import chat_examples
from lam_jax.data.sources import JsonRows
from lam_jax.latent.config import LatentConfig
from lam_jax.models.processor import ImageSettings
from lam_jax.recipe import AnswerSet, Corpus, EvaluationSettings, Model, Recipe, algorithm_named, in_every_space
from lam_jax.recipes.settings import SHIPPED_MODEL, reinforcement, stages
from lam_jax.rewards.embedding import SimilarityReward
from lam_jax.rewards.reward import FunctionReward, Reward
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.tasks.task import ScoredSplit, Task
from lam_jax.train.method import Method

SPLITS = {"sft": (0.0, 0.5), "rl": (0.5, 0.85), "val": (0.85, 0.9), "test": (0.9, 1.0)}
HELD_OUT = {"train": (0.0, 0.99), "test": (0.99, 1.0)}


def reward_named(name: str) -> Reward:
    """ "similarity" (to the reference), or a function `module:name` of (examples, answers[N][G]) -> numbers [N][G].

    Raises:
        ValueError: no such function.
    """
    if name == "similarity":
        return SimilarityReward()
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"Reward {name!r}: {error}; expected 'similarity' or `module:function`.") from error
    if not callable(found):
        raise ValueError(f"Reward {name!r}: found {found!r}, expected a function.")
    return FunctionReward(found)


def recipe(
    task: str,
    paired: str,
    text: str | None = None,
    model: str = SHIPPED_MODEL,
    reward: str = "similarity",
    name: str = "own",
    algorithm: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"] = "grpo",
    codes: int = 128,
    image: tuple[int, int] = (280, 420),
    row_length: int = 2048,
    prompt_length: int = 1024,
    answer_length: int = 256,
    seed: int = 0,
) -> Recipe:
    """A recipe on one's own files, with the published settings of the stages.

    Args:
        task: JSON file of the task's rows; half are for SFT, 35 % for RL, 5 % for validation, 10 % are scored.
        paired: JSON file of image-text rows.
        text: JSON file of text-only rows; None: stages 3 and 4 go without.
        model: folder of a Qwen2.5-VL with its tokenizer; default: the small one that ships with the package.
        reward: "similarity" to the reference answer, or `module:function`.
        name: of the task.
        algorithm: policy gradient of stage 6.
        codes: latent actions.
        image: height and width in pixels to which pictures are stretched.
        row_length, prompt_length, answer_length: most tokens of a training row, a prompt and an answer.
        seed: of everything random.
    """
    own = Task(
        name,
        name.replace("_", " ").capitalize(),
        JsonRows(task, SPLITS, parse=chat_examples),
        reward_named(reward),
        chat_lengths=(row_length,),
        prompt_lengths=(prompt_length,),
        answer_length=answer_length,
        tests={"id": ScoredSplit("test", "Held-out rows")},
    )
    sampling = in_every_space(SamplingConfig())
    return Recipe(
        name="own",
        seed=seed,
        model=Model(model),
        latent=LatentConfig(codes=codes),
        image=ImageSettings(size=image),
        paired=Corpus(JsonRows(paired, HELD_OUT, parse=chat_examples), (row_length,)),
        text_only=None if text is None else Corpus(JsonRows(text, HELD_OUT, parse=chat_examples), (row_length,)),
        tasks=(own,),
        method=Method(text_only=text is not None),
        rl=reinforcement(algorithm_named(algorithm), sampling),
        evaluation=EvaluationSettings((AnswerSet(3, sampling),)),
        **stages(),
    )
