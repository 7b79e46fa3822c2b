"""Settings of stage 6."""

import dataclasses

from lam_jax.nn.stack import Remat, require_remat
from lam_jax.rl import Algorithm
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.spaces import Space, require_storage_of


@dataclasses.dataclass(frozen=True)
class RLConfig:
    """Settings of stage 6 for one task in one action space; `lam_jax.recipes.settings` has the released ones.

    Attributes:
        algorithm: which policy gradient.
        space: what an action is.
        steps: rollouts.
        prompts: N, prompts of each rollout.
        rollout: how they are continued.
        epochs: passes over each rollout.
        mini_batches: optimiser steps of each pass, over equal shares of the prompts.
        micro_batches: parts of an optimiser step's prompts that are run one after the other; changes no number but
            rounding.
        optimiser: learning rate and schedule.
        remat: recompute activations in the update's backward pass; "products": all but those of products with weights.
        update_lengths: buckets below the rollout's length; an update runs at the smallest that holds its completions.
        turns: most answers of a game, each of which is a row of the batch (`train/rl_episodes.py`); 0: a prompt has one
            answer, and its samples are one row.
        max_failed_steps, least_usable, overlap_scoring: as in `lam_jax.recipe.RLSettings`.
    """

    algorithm: Algorithm
    space: Space
    steps: int = 100
    prompts: int = 4
    rollout: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    epochs: int = 1
    mini_batches: int = 1
    micro_batches: int = 1
    optimiser: OptimiserConfig = dataclasses.field(default_factory=lambda: OptimiserConfig(lr=1e-6))
    remat: Remat = False
    update_lengths: tuple[int, ...] = ()
    turns: int = 0
    max_failed_steps: int = 5
    least_usable: float = 0.1
    overlap_scoring: bool = False

    def __post_init__(self):
        buckets = (0, *self.update_lengths, self.rollout.length)
        if list(buckets) != sorted(set(buckets)):
            raise ValueError(
                f"RLConfig.update_lengths is {self.update_lengths}, expected increasing numbers from 1 to below the "
                f"rollout's length {self.rollout.length}."
            )
        for name in ("steps", "prompts", "epochs", "mini_batches", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"RLConfig.{name} must be at least 1, got {getattr(self, name)}.")
        require_remat("RLConfig.remat", self.remat)
        require_storage_of("RLConfig.rollout.weights", self.rollout.weights, (self.space,))
        if self.prompts % self.mini_batches:
            raise ValueError(f"RLConfig.mini_batches {self.mini_batches} must divide prompts {self.prompts}.")
        if self.turns < 0:
            raise ValueError(f"RLConfig.turns must be at least 0, got {self.turns}.")
        if self.turns and self.overlap_scoring:
            raise ValueError(
                "RLConfig.overlap_scoring with turns: an environment answers each turn before the next one is drawn. "
                "Switch it off."
            )
        if self.overlap_scoring and self.algorithm.dynamic_sampling_std is not None:
            raise ValueError(
                f"RLConfig.overlap_scoring with {self.algorithm.name}: dynamic sampling has to know the rewards before "
                "it goes on. Switch one of the two off."
            )
        if self.prompts // self.mini_batches % self.micro_batches:
            raise ValueError(
                f"RLConfig.micro_batches {self.micro_batches} must divide the {self.prompts // self.mini_batches} "
                "prompts of a mini-batch."
            )

    @property
    def updates(self) -> int:
        """Optimiser steps of one rollout."""
        return self.epochs * self.mini_batches

    @property
    def rows(self) -> int:
        """Rows of a batch that a prompt has: one for all its samples, or one for each turn of each game."""
        return self.rollout.samples * self.turns if self.turns else 1

    @property
    def sequence(self) -> int:
        """Rows of a batch that one sequence of the loss is made of: the turns of a game."""
        return self.turns or 1

    @property
    def update_buckets(self) -> tuple[int, ...]:
        """Completion lengths that updates run at."""
        return (*self.update_lengths, self.rollout.length)
