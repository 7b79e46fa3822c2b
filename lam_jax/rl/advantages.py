"""Advantages from the rewards of grouped samples (method.md section 4).

N prompts, G samples of each prompt.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lam_jax.rl.algorithm import AdvantageKind, Algorithm

STD_FLOOR = 1e-4  # added to the standard deviation, as GRPO implementations do

Rewards = Float[Array, "N G"] | Float[np.ndarray, "N G"]
Ok = Bool[Array, "N G"] | Bool[np.ndarray, "N G"]


def usable_samples(ok: Ok) -> Bool[Array, "N G"]:
    """Samples that have a reward and at least one other rewarded sample in their group to be compared with."""
    ok = jnp.asarray(ok)
    return ok & (ok.sum(axis=1, keepdims=True) >= 2)


def fill_failed(rewards: Rewards, ok: Ok) -> Float[Array, "N G"]:
    """The released code's treatment of failed reward calls: (sum of the group's successful rewards) / G.

    Since the divisor is G and not the number of successes, the filled value is biased low.
    """
    rewards, ok = jnp.asarray(rewards), jnp.asarray(ok)
    successful = jnp.where(ok, rewards, 0.0)
    return jnp.where(ok, rewards, successful.mean(axis=1, keepdims=True))


def normalise_rewards(rewards: Rewards, usable: Ok, kind: AdvantageKind) -> Float[Array, "N G"]:
    """Centre the rewards by their group's mean and scale them as `kind` says, over usable samples only.

    Args:
        rewards: anything, NaN included, where `usable` is False.
        usable: samples that enter the statistics; the others get an advantage of 0.
        kind: see `Algorithm.advantage`.
    """
    usable = jnp.asarray(usable)
    rewards = jnp.where(usable, jnp.asarray(rewards), 0.0)
    count = usable.sum(axis=1, keepdims=True).astype(rewards.dtype)
    mean = rewards.sum(axis=1, keepdims=True) / jnp.maximum(count, 1.0)
    centred = jnp.where(usable, rewards - mean, 0.0)
    if kind == "group_mean":
        return centred
    if kind == "group_std":
        variance = jnp.square(centred).sum(axis=1, keepdims=True) / jnp.maximum(count - 1.0, 1.0)
        return centred / (jnp.sqrt(variance) + STD_FLOOR)
    total = count.sum()
    deviation = jnp.where(usable, rewards - rewards.sum() / jnp.maximum(total, 1.0), 0.0)
    variance = jnp.square(deviation).sum() / jnp.maximum(total - 1.0, 1.0)
    return centred / (jnp.sqrt(variance) + STD_FLOOR)


def compute_advantages(
    algorithm: Algorithm, rewards: Rewards, ok: Ok
) -> tuple[Float[Array, "N G"], Bool[Array, "N G"]]:
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
        active = jnp.ones(jnp.shape(rewards), bool)
        rewards = fill_failed(rewards, ok)
    else:
        active = usable_samples(ok)
    return normalise_rewards(rewards, active, algorithm.advantage), active
