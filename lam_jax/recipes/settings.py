"""The published settings of stages 1 to 6 as values (method.md section 3, method.md section 4)."""

import dataclasses
from typing import Any

from lam_jax.corpora.built import built_rows
from lam_jax.formats.model_folder import read_model_config, tokenizer_folder
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.latent.config import LatentConfig
from lam_jax.models.families import family_of, image_settings
from lam_jax.models.image_settings_file import image_settings_file, read_image_fields
from lam_jax.models.processor import ImageSettings
from lam_jax.recipe import AnswerSet, Corpus, EvaluationSettings, Model, Recipe, RLSettings, StageSettings
from lam_jax.rewards.dimensions import HELP_RUBRIC, ROLE_PLAY_RUBRIC
from lam_jax.rewards.judge import JudgeConfig, JudgeReward, warn_same_judge
from lam_jax.rl import Algorithm
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.tasks.mmrole import MMRoleRows
from lam_jax.tasks.pcogalign import PCogAlignRows
from lam_jax.tasks.task import ScoredSplit, Task
from lam_jax.train.method import Method
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.stages.step import Accumulation

SHIPPED_MODEL = "lam_jax:scenes/assets/base_model"
SHIPPED_IMAGE = ImageSettings(size=(84, 112))  # what the shipped model was trained on
IMAGE = ImageSettings(size=(280, 420))  # height, width: 150 tokens
# Top-k of the codes: 32 in rollouts, 64 in evaluation. Tokens are not truncated.
ROLLOUTS = {"latent": SamplingConfig(top_k=32), "token": SamplingConfig()}
ANSWERS = {"latent": SamplingConfig(temperature=0.1, top_k=64), "token": SamplingConfig(temperature=0.1)}


def image_for(model: str, size: tuple[int, int] | None = None) -> ImageSettings:
    """How pictures are prepared for a model's folder, by its family; one that cannot be read fails where it is opened.

    Colours are normalised as the folder's image settings say, where it has them.

    Args:
        model: folder.
        size: height and width in pixels that pictures are stretched to; None: what suits the family, 280 x 420 or about
            as much, and the shipped model what it was trained on.

    Raises:
        ImageError: image settings that are damaged, or say what is not done here.
    """
    if model == SHIPPED_MODEL:
        return ImageSettings(size=size) if size else SHIPPED_IMAGE
    folder = Model(model).path
    try:
        config = read_model_config(folder)
    except (OSError, CheckpointError):
        return ImageSettings(size=size) if size else IMAGE
    settings = image_settings(config, size or family_of(config).size)
    files = tokenizer_folder(folder)
    found = {} if image_settings_file(files) is None else read_image_fields(files)
    return dataclasses.replace(settings, **{name: found[name] for name in ("mean", "std") if name in found})


Optimisers = dict[str, OptimiserConfig]  # of stages 1 to 5, by the recipe's field

PUBLISHED: Optimisers = {
    "inverse": OptimiserConfig(1e-4, "cosine", final_fraction=0.1),
    "projector": OptimiserConfig(1e-3, "linear", warmup_fraction=0.1),
    "joint": OptimiserConfig(1e-4, "cosine", warmup_fraction=0.1, final_fraction=0.1),
    "cloning": OptimiserConfig(1e-4, "cosine"),
    "sft": OptimiserConfig(5e-5, "cosine", warmup_fraction=0.03),
}
# For the shipped model, a thousandth of the published size; its latent modules are new and small too.
SMALL: Optimisers = {
    "inverse": OptimiserConfig(2e-3, "cosine", 0.05, 0.1),
    "projector": OptimiserConfig(2e-3, "linear", 0.1),
    "joint": OptimiserConfig(1.5e-3, "cosine", 0.1, 0.1),
    "cloning": OptimiserConfig(2e-3, "cosine", 0.05),
    "sft": OptimiserConfig(5e-4, "cosine", 0.03),
}
SMALL_RL: Optimisers = {"latent": OptimiserConfig(6e-4), "token": OptimiserConfig(5e-4)}


def stages(
    optimisers: Optimisers = PUBLISHED,
    batch: int = 16,
    sft_batch: int = 4,
    epochs: float = 1,
    sft_epochs: float = 3,
    micro_batches: int = 1,
    sft_micro_batches: int = 1,
    accumulation: Accumulation = "exact",
) -> dict[str, Any]:
    """Stages 1 to 5 by the recipe's field: one epoch of 16 rows a step each, and three epochs of 4 rows."""
    learning = {
        name: StageSettings(
            batch, optimisers[name], epochs=epochs, micro_batches=micro_batches, accumulation=accumulation
        )
        for name in ("inverse", "projector", "joint", "cloning")
    }
    sft = StageSettings(
        sft_batch,
        optimisers["sft"],
        epochs=sft_epochs,
        micro_batches=sft_micro_batches,
        accumulation=accumulation,
    )
    return {**learning, "sft": sft}


def reinforcement(algorithm: Algorithm, sampling: dict[str, SamplingConfig], **fields: Any) -> RLSettings:
    """Stage 6: 100 rollouts of 4 prompts x 8 samples at a constant 1e-6."""
    optimiser = OptimiserConfig(1e-6)
    return RLSettings(
        algorithm, {"latent": optimiser, "token": optimiser}, sampling, steps=100, prompts=4, samples=8, **fields
    )


def evaluation(answers: dict[str, SamplingConfig]) -> EvaluationSettings:
    """Three answers to each test prompt (method.md section 5)."""
    return EvaluationSettings((AnswerSet(3, answers),), embedder="BAAI/bge-m3")


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Of a task's rows, tokens, the picture's included.

    Attributes:
        chat: buckets of whole chats in stage 5; longer ones are cut on the right.
        prompt: buckets of prompts; longer ones are cut on the left.
        answer: most tokens of an answer.
    """

    chat: tuple[int, ...]
    prompt: tuple[int, ...]
    answer: int


# As published, which cuts 87 % of MMRole's RL prompts on the left: their median is 2,178 tokens, the longest 2,820.
MMROLE_LENGTHS, PCOGALIGN_LENGTHS = Lengths((4096,), (1024,), 1024), Lengths((4096,), (512,), 1024)


def judges(
    training: JudgeConfig, url: str | None, model: str | None, reference_writer: str | None = None
) -> tuple[JudgeConfig, JudgeConfig | None]:
    """The judge of training, and that of evaluation, None where it is the same one; warns if their models are.

    Args:
        training: the judge of training.
        url, model: of the judge of evaluation; None: as in training.
        reference_writer: name of the model that wrote the reference answers, if known.
    """
    examiner = dataclasses.replace(training, base_url=url or training.base_url, model=model or training.model)
    warn_same_judge(training.model, examiner.model, reference_writer)
    return training, None if examiner == training else examiner


def mmrole(
    folder: str,
    images: str,
    judge: JudgeConfig,
    evaluation_judge: JudgeConfig | None = None,
    lengths: Lengths = MMROLE_LENGTHS,
) -> Task:
    """MMRole's commentary dialogues; `evaluation_judge` None: the judge of training scores the tests too."""
    return Task(
        "mmrole",
        "MMRole",
        built_rows(folder, "mmrole") or MMRoleRows(folder, images),
        JudgeReward(judge, ROLE_PLAY_RUBRIC),
        lengths.chat,
        lengths.prompt,
        lengths.answer,
        val="rl_val",
        tests={
            "id": ScoredSplit("id_test", "ID: known characters"),
            "ood": ScoredSplit("ood_test", "OOD: new characters"),
        },
        evaluation_reward=JudgeReward(evaluation_judge, ROLE_PLAY_RUBRIC) if evaluation_judge else None,
    )


def pcogalign(
    folder: str,
    images: str,
    judge: JudgeConfig,
    evaluation_judge: JudgeConfig | None = None,
    lengths: Lengths = PCOGALIGN_LENGTHS,
) -> Task:
    """PCogAlignBench with golden answers; `evaluation_judge` None: the judge of training scores the tests too."""
    return Task(
        "pcogalign",
        "PCogAlignBench",
        built_rows(folder, "pcogalign") or PCogAlignRows(folder, images),
        JudgeReward(judge, HELP_RUBRIC),
        lengths.chat,
        lengths.prompt,
        lengths.answer,
        tests={"id": ScoredSplit("ls1", "LS1: known role sets"), "ood": ScoredSplit("ls2", "LS2: new role sets")},
        evaluation_reward=JudgeReward(evaluation_judge, HELP_RUBRIC) if evaluation_judge else None,
    )


def published(
    name: str,
    model: str,
    corpora: tuple[Corpus, Corpus],
    tasks: tuple[Task, ...],
    method: Method,
    algorithm: Algorithm,
    sampling: dict[str, SamplingConfig],
    answers: dict[str, SamplingConfig],
    seed: int,
    micro_batches: tuple[int, int] = (1, 1),
    accumulation: Accumulation = "exact",
    **rl: Any,
) -> Recipe:
    """A recipe at the published sizes: 128 codes, 4 inverse and 8 policy blocks, recomputed activations."""
    return Recipe(
        name=name,
        seed=seed,
        model=Model(model),
        latent=LatentConfig(),
        image=image_for(model),
        paired=corpora[0],
        text_only=corpora[1],
        tasks=tasks,
        method=dataclasses.replace(method, remat=True),
        rl=reinforcement(algorithm, sampling, remat=True, **rl),
        evaluation=evaluation(answers),
        **stages(micro_batches=micro_batches[0], sft_micro_batches=micro_batches[1], accumulation=accumulation),
    )
