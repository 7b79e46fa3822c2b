"""The phases of a recipe: their names, which nothing else makes up, their order, and what is known of their length."""

from collections.abc import Callable

from lam_jax.recipe import PAIRED, Recipe, StageSettings
from lam_jax.runs.time_left import ScheduledPhase
from lam_jax.tasks.task import Task
from lam_jax.train.spaces import SPACES, Space

DATA, BASE_MODEL, CODES, REPORT = "data", "base_model", "codes", "report"
# Stages 1 to 4 by the name of their settings in a recipe.
STAGE_PHASES = {
    "inverse": "stage1_inverse",
    "projector": "stage2_projector",
    "joint": "stage3_joint",
    "cloning": "stage4_cloning",
}


def sft_phase(first: str, space: Space, task: Task) -> str:
    """Stage 5; `first` names its pass, see `Space.sft`."""
    return f"{first}_{space.name}_{task.name}"


def rl_phase(space: Space, task: Task) -> str:
    """Stage 6."""
    return f"rl_{space.name}_{task.name}"


def scores_phase(after: str, space: Space, task: Task) -> str:
    """Scores and answers after stage 5 ("sft") or 6 ("rl")."""
    return f"scores_{after}_{space.name}_{task.name}"


def control_phase(task: Task) -> str:
    """The causal test after stage 5."""
    return f"control_{task.name}"


def phases_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of all phases of `run_recipe`, in order."""
    return tuple(phase.name for phase in schedule_of(recipe, lambda source, split: 0))


def schedule_of(recipe: Recipe, rows: Callable[[str, str], int]) -> tuple[ScheduledPhase, ...]:
    """All phases of `run_recipe`, in order, with their training steps.

    Args:
        recipe: which.
        rows: (source, split) -> number of rows, see `Resources.examples`; what lasts for epochs depends on it.
    """
    phases = [ScheduledPhase(DATA, DATA)]
    if recipe.evaluation.backbone is not None:
        phases.append(ScheduledPhase(BASE_MODEL, BASE_MODEL))
    for name, phase in STAGE_PHASES.items():
        settings: StageSettings = getattr(recipe, name)
        phases.append(ScheduledPhase(phase, phase, settings.steps_of(rows(PAIRED, recipe.paired.train))))
    phases.append(ScheduledPhase(CODES, CODES))
    for task in recipe.tasks:
        for space in (SPACES[name] for name in recipe.spaces):
            scores = f"scores_{space.name}"
            for first in space.sft(recipe.method):
                steps = recipe.sft.steps_of(rows(task.name, task.sft))
                phases.append(ScheduledPhase(sft_phase(first, space, task), f"{first}_{space.name}", steps))
            if space.coded:
                phases.append(ScheduledPhase(control_phase(task), "control"))
            phases.append(ScheduledPhase(scores_phase("sft", space, task), scores))
            phases.append(ScheduledPhase(rl_phase(space, task), f"rl_{space.name}", recipe.rl.steps))
            phases.append(ScheduledPhase(scores_phase("rl", space, task), scores))
    return (*phases, ScheduledPhase(REPORT, None))
