"""The phases of a run: their names, which nothing else makes up, and what those that train train."""

from collections.abc import Mapping

from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.rewards.judge import judges_of
from lam_jax.tasks.episodes import EpisodeTask
from lam_jax.tasks.task import Task
from lam_jax.train.method import Method
from lam_jax.train.spaces import Space
from lam_jax.train.stages import STAGES
from lam_jax.train.stages.stage import Stage, Trains

DATA, BASE_MODEL, CODES, REACH = "data", "base_model", "codes", "reach"
# Stages 1 to 4, by the names of their phases; a stage's name is also that of its settings in a recipe.
STAGE_PHASES: Mapping[str, Stage] = {
    "stage1_inverse": STAGES["inverse"],
    "stage2_projector": STAGES["projector"],
    "stage3_joint": STAGES["joint"],
    "stage4_cloning": STAGES["cloning"],
}


def sft_phases(task: str, space: Space, method: Method) -> dict[str, Stage]:
    """The passes of stage 5 of a task, by the names of their phases; spaces that start alike share them."""
    return {f"{name}_{space.sft_space}_{task}": stage for name, stage in space.sft(method).items()}


def rl_phase(task: str, space: Space) -> str:
    """Stage 6 of a task."""
    return f"rl_{space.name}_{task}"


def scores_phase(after: str, task: str, space: Space) -> str:
    """Scores and answers after stage 5 ("sft") or 6 ("rl")."""
    return f"scores_{after}_{space.name}_{task}"


def control_phase(task: str) -> str:
    """The causal test after stage 5."""
    return f"control_{task}"


def reach_phase(task: str, space: Space) -> str:
    """How far the codes can move the answers, and the best of n answers, after stage 5."""
    return f"reach_{space.name}_{task}"


def reach_after_rl_phase(task: str, space: Space) -> str:
    """The best of n answers, and answers under random codes, after stage 6."""
    return f"reach_rl_{space.name}_{task}"


def is_scored(settings: ReachSettings, task: Task) -> bool:
    """Whether that phase draws and scores answers; a judge is asked only where the recipe says so.

    Games have no answers that could be compared with the tokens along a reference.
    """
    if isinstance(task, EpisodeTask):
        return False
    return settings.prompts > 0 and (settings.judged or not judges_of(task.reward))


def has_reach(settings: ReachSettings | None, task: Task, space: Space) -> bool:
    """Whether a task has that phase in an action space: tokens have scores alone."""
    return settings is not None and (space.coded or is_scored(settings, task))


def trained_by(task: str, space: Space, method: Method) -> dict[str, Trains]:
    """What each phase on the way to the agent of a task in an action space trains, by name, in order."""
    stages = {**STAGE_PHASES, **sft_phases(task, space, method)}
    return {name: stage.trains for name, stage in stages.items()} | {rl_phase(task, space): space.trains}
