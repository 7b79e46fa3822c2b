"""Reinforcement learning on arrays: algorithms as values, advantages, the surrogate loss and its normalisers."""

from lam_jax.rl.advantages import compute_advantages, fill_failed, group_std, usable_samples
from lam_jax.rl.algorithm import ALGORITHMS, Algorithm, algorithm_named
from lam_jax.rl.masks import completion_mask, ends_well, is_end
from lam_jax.rl.normalisers import BatchCounts, count_batch, loss_denominator
from lam_jax.rl.shaping import fill_slots, informative_groups, overlong_penalty
from lam_jax.rl.surrogate import PolicyMetrics, policy_loss

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "BatchCounts",
    "PolicyMetrics",
    "algorithm_named",
    "completion_mask",
    "compute_advantages",
    "count_batch",
    "ends_well",
    "fill_failed",
    "fill_slots",
    "group_std",
    "informative_groups",
    "is_end",
    "loss_denominator",
    "overlong_penalty",
    "policy_loss",
    "usable_samples",
]
