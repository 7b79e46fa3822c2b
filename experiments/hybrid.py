"""Temperatures of the token in hybrid RL, on validation prompts, and what the codes are still for after it.

    .venv/bin/python -m experiments.hybrid
    .venv/bin/lam-jax table experiments/results/hybrid

Hybrid RL trains the merge too, which can learn to say the right token under any code: then uniformly random codes score
as the policy's do. Seed and prompts are those of `experiments.tune`, which has the learning rates at .5.
"""

import dataclasses

from experiments.arms import tuning
from experiments.grid_command import main
from lam_jax.grid.grid import Grid
from lam_jax.recipe import Recipe
from lam_jax.rollout.sampling import HybridSampling


def hybrid(learning_rate: float, emission: float, seed: int = 100) -> Recipe:
    """Hybrid RL on role play.

    Args:
        learning_rate: of RL.
        emission: temperature at which rollouts draw the token under a code.
        seed: of everything random.
    """
    found = tuning("hybrid", seed, "role_play", learning_rate)
    sampling = found.rl.sampling["hybrid"]
    assert isinstance(sampling, HybridSampling)
    drawn = dataclasses.replace(sampling, emission=emission)
    rl = dataclasses.replace(found.rl, sampling={**found.rl.sampling, "hybrid": drawn})
    return dataclasses.replace(found, name="hybrid", rl=rl)


GRID = Grid("hybrid", {"demo": hybrid}, {"learning_rate": (3e-4,), "emission": (0.5, 0.25, 1.0)}, {"seed": 100})

if __name__ == "__main__":
    main(GRID)
