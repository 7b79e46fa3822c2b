"""Any recipe in other action spaces; what the hybrid one needs follows from the latent one."""

import dataclasses
from collections.abc import Sequence

from lam_jax.recipe import Recipe
from lam_jax.rollout.sampling import HybridSampling
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.spaces import HYBRID


def in_spaces(
    recipe: Recipe, spaces: Sequence[str], emission: float = 0.5, optimiser: OptimiserConfig | None = None
) -> Recipe:
    """The recipe in these action spaces; the hybrid one draws its codes and its answers as the latent one does.

    Args:
        recipe: with settings of the latent and of the token space.
        spaces: some of "latent", "hybrid" and "token".
        emission: temperature at which hybrid rollouts draw the token under a code.
        optimiser: of hybrid RL; None: that of latent RL.
    """
    if HYBRID.name not in spaces:
        return dataclasses.replace(recipe, spaces=tuple(spaces))
    rl, evaluation, name = recipe.rl, recipe.evaluation, HYBRID.name
    codes = rl.sampling["latent"]
    values = {field.name: getattr(codes, field.name) for field in dataclasses.fields(codes)}
    rl = dataclasses.replace(
        rl,
        sampling={**rl.sampling, name: HybridSampling(**values, emission=emission)},
        optimisers={**rl.optimisers, name: optimiser or rl.optimisers["latent"]},
    )
    answers = (dataclasses.replace(a, sampling={**a.sampling, name: a.sampling["latent"]}) for a in evaluation.answers)
    evaluation = dataclasses.replace(evaluation, answers=tuple(answers))
    return dataclasses.replace(recipe, spaces=tuple(spaces), rl=rl, evaluation=evaluation)
