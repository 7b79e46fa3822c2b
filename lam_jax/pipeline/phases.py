"""The phases of a recipe's run by name, before any of them has run."""

from lam_jax.errors import BadSettingError
from lam_jax.recipe import Recipe
from lam_jax.train.spaces import SPACES

STAGES = ("stage1_inverse", "stage2_projector", "stage3_joint", "stage4_cloning")


def phases_of(recipe: Recipe) -> dict[str, bool]:
    """All phases that `run_recipe` asks for, in order, and whether they train (the others prepare or measure)."""
    found = {"data": False}
    if recipe.evaluation.backbone is not None:
        found["base_model"] = False
    found |= dict.fromkeys(STAGES, True) | {"codes": False}
    for task in recipe.tasks:
        for space in (SPACES[name] for name in recipe.spaces):
            found |= {f"{name}_{space.name}_{task.name}": True for name in space.sft(recipe.method)}
            if space.coded:
                found[f"control_{task.name}"] = False
            for phase in ("sft", "rl"):
                if phase == "rl":
                    found[f"rl_{space.name}_{task.name}"] = True
                found[f"scores_{phase}_{space.name}_{task.name}"] = False
    return found


def require_trained_phase(recipe: Recipe, name: str | None) -> None:
    """Refuses to trace a phase that the recipe does not have or that has no steps.

    Raises:
        BadSettingError: the message lists the phases that can be traced.
    """
    trained = [phase for phase, trains in phases_of(recipe).items() if trains]
    if name is not None and name not in trained:
        raise BadSettingError(f"profile: found {name!r}, expected a phase that trains: {', '.join(trained)}.")
