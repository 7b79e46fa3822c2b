"""Advantages from the rewards of grouped samples (method.md section 4), on the host in float64.

Rewards of a group are compared after its first one is taken off each of them: what is left of equal rewards is exactly
0, whatever their size, and so are their mean, their spread and their advantages.

N prompts, G samples of each prompt.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from lam_jax.errors import RewardError
from lam_jax.rl.algorithm import AdvantageKind, Algorithm

STD_FLOOR = 1e-4  # added to the standard deviation, as GRPO implementations do
# Rewards of a group that differ by no more than this many units in the last place of the largest are equal: sums of the
# same parts in another order are.
ROUNDING = 8 * np.finfo(np.float64).eps

Groups = Float64[np.ndarray, "N G"]
Ok = Bool[np.ndarray, "N G"]


def usable_samples(ok: Any) -> Ok:
    """Samples that have a reward and at least one other rewarded sample in their group to be compared with."""
    ok = np.asarray(ok, bool)
    return ok & (ok.sum(axis=1, keepdims=True) >= 2)


def fill_failed(rewards: Any, ok: Any) -> Groups:
    """The released code's treatment of failed reward calls: (sum of the group's successful rewards) / G.

    Since the divisor is G and not the number of successes, the filled value is biased low.
    """
    rewards, ok = np.asarray(rewards, np.float64), np.asarray(ok, bool)
    successful = np.where(ok, rewards, 0.0)
    return np.where(ok, rewards, successful.mean(axis=1, keepdims=True))


def centred_rewards(rewards: Any, usable: Any) -> Groups:
    """Rewards minus their group's mean over usable samples; 0 for the others and throughout a group of equal rewards.

    Args:
        rewards: [N, G], anything, NaN included, where `usable` is False.
        usable: [N, G], samples that enter the mean.
    """
    usable = np.asarray(usable, bool)
    rewards = np.where(usable, np.asarray(rewards, np.float64), 0.0)
    first = np.take_along_axis(rewards, usable.argmax(axis=1)[:, None], axis=1)
    apart = np.where(usable, rewards - first, 0.0)
    largest = np.abs(rewards).max(axis=1, keepdims=True)
    apart[np.ptp(apart, axis=1) <= ROUNDING * largest[:, 0]] = 0.0
    mean = apart.sum(axis=1, keepdims=True) / np.maximum(usable.sum(axis=1, keepdims=True), 1)
    return np.where(usable, apart - mean, 0.0)


def group_std(rewards: Any, usable: Any) -> Float64[np.ndarray, "N"]:
    """Sample standard deviation of each group's usable rewards: exactly 0 where they are equal or fewer than two."""
    count = np.asarray(usable, bool).sum(axis=1)
    return np.sqrt(np.square(centred_rewards(rewards, usable)).sum(axis=1) / np.maximum(count - 1, 1))


def normalise_rewards(rewards: Any, usable: Any, kind: AdvantageKind) -> Float32[np.ndarray, "N G"]:
    """Centre the rewards by their group's mean and scale them as `kind` says, over usable samples only.

    Args:
        rewards: [N, G], anything, NaN included, where `usable` is False.
        usable: [N, G], samples that enter the statistics; the others get an advantage of 0.
        kind: see `Algorithm.advantage`.

    Returns:
        Rounded to float32 at the end; exactly 0 in a group whose usable rewards are equal.

    Raises:
        RewardError: the rewards are so far apart that their statistics overflow.
    """
    usable = np.asarray(usable, bool)
    with np.errstate(over="ignore", invalid="ignore"):
        centred, spread = centred_rewards(rewards, usable), np.zeros(1)
        if kind == "group_std":
            spread = group_std(rewards, usable)[:, None]
            centred = centred / (spread + STD_FLOOR)
        elif kind == "batch_std":
            # One group of all samples.
            whole = np.asarray(rewards, np.float64).reshape(1, -1), usable.reshape(1, -1)
            spread = group_std(*whole)
            centred = centred / (spread[0] + STD_FLOOR)
        advantages = centred.astype(np.float32)
    if not (np.isfinite(advantages).all() and np.isfinite(spread).all()):
        found = np.asarray(rewards, np.float64)[usable]
        raise RewardError(
            f"Rewards of one step go from {found.min():g} to {found.max():g}: so far apart that their mean and spread "
            "are no numbers. Scale or bound the reward."
        )
    return advantages


def compute_advantages(algorithm: Algorithm, rewards: Any, ok: Any) -> tuple[Float32[np.ndarray, "N G"], Ok]:
    """Advantages of an `[N, G]` batch of samples and which of those samples take part in the update.

    Args:
        algorithm: its `advantage` and `failed_calls` are read.
        rewards: training rewards; ignored where `ok` is False.
        ok: False where the reward call failed.

    Returns:
        (advantages, active). Under `drop` a failed sample and every sample of a group with fewer than two rewarded
        ones is inactive with advantage 0: multiply the completion mask by `active`. Under `fill` all are active.
    """
    if algorithm.failed_calls == "fill":
        active = np.ones(np.shape(rewards), bool)
        rewards = fill_failed(rewards, ok)
    else:
        active = usable_samples(ok)
    return normalise_rewards(rewards, active, algorithm.advantage), active
