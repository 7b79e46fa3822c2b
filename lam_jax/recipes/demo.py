"""The demo: the whole method on the built-in world, in about twelve minutes on two quiet CPU cores.

lam-jax demo --out runs/demo
"""

from typing import Literal

from lam_jax.data.mispaired import MispairedRows
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.models.processor import ImageSettings
from lam_jax.recipe import (
    AnswerSet,
    Corpus,
    EvaluationSettings,
    Model,
    Recipe,
    RLSettings,
    StageSettings,
    in_every_space,
)
from lam_jax.recipes.settings import SMALL
from lam_jax.recipes.spaces import in_spaces
from lam_jax.rl import algorithm_named
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.scenes.builder import SceneSizes
from lam_jax.scenes.maze_rows import MazeSizes, maze_task
from lam_jax.scenes.maze_steps import maze_steps_task
from lam_jax.scenes.source import (
    BASE_MODEL_FOLDER,
    CHAT_LENGTHS,
    IMAGE_SIZE,
    PROMPT_LENGTHS,
    SceneRows,
    backbone_scores,
    scene_tasks,
)
from lam_jax.train.method import Method
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.spaces import PAPER_SPACES, SpaceName

TaskName = Literal["role_play", "help", "maze", "maze_steps"]
AlgorithmName = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"]
ALGORITHM_OF: dict[TaskName, AlgorithmName] = {
    "role_play": "dapo",
    "help": "grpo",
    "maze": "grpo",
    "maze_steps": "grpo",
}
GAMES = {"maze", "maze_steps"}
# Of stage 5, the most of the chosen tasks' being taken: with fewer, codes that go on learning do not reach the answers
# (method.md section 8), and the roles and feelings of personalised help are learned late.
SFT_STEPS: dict[TaskName, int] = {"role_play": 250, "help": 1_000, "maze": 400, "maze_steps": 400}
METHOD = Method(sft="learn")
SPACES: tuple[SpaceName, ...] = ("latent", "hybrid", "token")
# By `experiments.tune`: the best of those tried for tokens and the hybrid space, and next to it for codes.
RL_RATE = OptimiserConfig(1e-3)
# Where nothing but games is trained: the shipped model has talked about pictures, and never seen a grid.
GAME_SFT = StageSettings(16, OptimiserConfig(1e-3, "cosine", 0.03), steps=SFT_STEPS["maze"])
GAME_RL_STEPS = 40
# Of an update that has a row for each turn of each game: the same numbers in an eighth of the memory. BNPO cannot.
GAME_PARTS = 8


def demo_sizes() -> SceneSizes:
    """Rows of the built-in data set; text-only data are five times the paired data in tokens."""
    return SceneSizes(
        paired={"train": 6_000, "test": 128, "caption_test": 128},
        text_only={"train": 21_600, "test": 128},
        role_play={"sft": 1_000, "rl": 400, "val": 32, "id_test": 96, "ood_test": 96},
        help={"sft": 1_600, "rl": 600, "val": 32, "ls1": 96, "ls2": 96},
    )


def recipe(
    seed: int = 0,
    task: tuple[TaskName, ...] = ("role_play",),
    algorithm: AlgorithmName | None = None,
    method: Method | None = None,
    sizes: SceneSizes | None = None,
    validate_every: int = 0,
    space: tuple[SpaceName, ...] = SPACES,
    emission: float = 0.5,
    maze_sizes: MazeSizes | None = None,
    mispaired: float = 0.0,
) -> Recipe:
    """The demo's recipe.

    Args:
        seed: of everything random; two runs with one seed on one machine give identical metrics.
        task: tasks to train; stage 5 is longest with help (four times role play's), stage 6 where it is games alone.
        algorithm: reinforcement learning algorithm of all tasks; default: dapo for role_play, grpo for the others.
        method: switches of the method; default: SFT `learn`.
        sizes: rows of the data set; default: `demo_sizes()`.
        validate_every: RL steps between two validations; 0: only before the first and after the last step.
        space: action spaces to train.
        emission: temperature at which rollouts of the hybrid space draw the token under a code.
        maze_sizes: rows of the picture game; default: `MazeSizes()`.
        mispaired: share of the paired training rows that have the picture of another row, for ablations.
    """
    sizes = sizes or demo_sizes()
    pairs = SceneRows("paired", sizes)
    tasks = {**scene_tasks(sizes), "maze": maze_task(maze_sizes), "maze_steps": maze_steps_task(maze_sizes)}
    games = not set(task) - GAMES
    # No truncation at 32 codes, so that both spaces sample alike.
    warm, near_greedy = (in_every_space(SamplingConfig(temperature=t)) for t in (1.0, 0.1))
    found = Recipe(
        name="demo",
        seed=seed,
        model=Model(BASE_MODEL_FOLDER),
        latent=LATENT_PRESETS["tiny"],
        image=ImageSettings(size=IMAGE_SIZE),
        paired=Corpus(
            MispairedRows(pairs, mispaired) if mispaired else pairs,
            (CHAT_LENGTHS["paired"],),
            prompt_lengths=(PROMPT_LENGTHS["paired"],),
        ),
        text_only=Corpus(SceneRows("text_only", sizes), (CHAT_LENGTHS["text_only"],)),
        tasks=tuple(tasks[name] for name in task),
        method=method or METHOD,
        inverse=StageSettings(8, SMALL["inverse"], steps=260),
        projector=StageSettings(8, SMALL["projector"], steps=60),
        joint=StageSettings(8, SMALL["joint"], steps=180),
        cloning=StageSettings(8, SMALL["cloning"], steps=130),
        sft=GAME_SFT if games else StageSettings(8, SMALL["sft"], steps=max(SFT_STEPS[name] for name in task)),
        rl=RLSettings(
            algorithm=algorithm_named(algorithm or "grpo"),
            task_algorithms={name: algorithm_named(algorithm or ALGORITHM_OF[name]) for name in task},
            optimisers=dict.fromkeys(PAPER_SPACES, RL_RATE),
            sampling=warm,
            steps=GAME_RL_STEPS if games else 12,
            prompts=16,
            samples=8,
            micro_batches=GAME_PARTS if "maze_steps" in task and algorithm != "bnpo" else 1,
            validate_every=validate_every,
        ),
        evaluation=EvaluationSettings(
            (AnswerSet(2, warm), AnswerSet(2, near_greedy)), prompts=32, backbone=backbone_scores
        ),
    )
    return in_spaces(found, space, emission)
