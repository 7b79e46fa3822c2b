"""The phases of a recipe's run before any of them has run: their order, and what is known of their length."""

from collections.abc import Callable

from lam_jax.errors import BadSettingError
from lam_jax.pipeline.phases import (
    BASE_MODEL,
    CODES,
    DATA,
    REACH,
    STAGE_PHASES,
    control_phase,
    has_reach,
    is_scored,
    reach_after_rl_phase,
    reach_phase,
    rl_phase,
    scores_phase,
    sft_phases,
)
from lam_jax.recipe import PAIRED, Recipe, StageSettings
from lam_jax.runs.time_left import ScheduledPhase
from lam_jax.train.spaces import SPACES


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
    for phase, stage in STAGE_PHASES.items():
        settings: StageSettings = getattr(recipe, stage.name)
        phases.append(ScheduledPhase(phase, phase, settings.steps_of(rows(PAIRED, recipe.paired.train))))
    phases.append(ScheduledPhase(CODES, CODES))
    reach = recipe.evaluation.reach
    if reach is not None:
        phases.append(ScheduledPhase(REACH, REACH))
    for task in recipe.tasks:
        for space in (SPACES[name] for name in recipe.spaces):
            scores = f"scores_{space.name}"
            for phase in sft_phases(task.name, space, recipe.method):
                steps = recipe.sft.steps_of(rows(task.name, task.sft))
                phases.append(ScheduledPhase(phase, phase.removesuffix(f"_{task.name}"), steps))
            if space.coded:
                phases.append(ScheduledPhase(control_phase(task.name), "control"))
            phases.append(ScheduledPhase(scores_phase("sft", task.name, space), scores))
            if has_reach(reach, task, space):
                phases.append(ScheduledPhase(reach_phase(task.name, space), f"reach_{space.name}"))
            phases.append(ScheduledPhase(rl_phase(task.name, space), f"rl_{space.name}", recipe.rl.steps))
            phases.append(ScheduledPhase(scores_phase("rl", task.name, space), scores))
            if reach is not None and is_scored(reach, task):
                phases.append(ScheduledPhase(reach_after_rl_phase(task.name, space), f"reach_{space.name}"))
    # Spaces that share their SFT name its phases each.
    return tuple({phase.name: phase for phase in phases}.values())


def require_trained_phase(recipe: Recipe, name: str | None) -> None:
    """Refuses to trace a phase that the recipe does not have or that has no steps.

    Raises:
        BadSettingError: the message lists the phases that can be traced.
    """
    trained = [phase.name for phase in schedule_of(recipe, lambda source, split: 0) if phase.steps is not None]
    if name is not None and name not in trained:
        raise BadSettingError(f"profile: found {name!r}, expected a phase that trains: {', '.join(trained)}.")
