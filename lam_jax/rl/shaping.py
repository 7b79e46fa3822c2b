"""Reward shaping and dynamic sampling of DAPO (arXiv 2503.14476), as functions of host arrays.

N prompts, G samples of each prompt.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from lam_jax.rl.advantages import group_std


def overlong_penalty(lengths: Int[np.ndarray, "*B"], max_length: int, zone: int) -> Float[np.ndarray, "*B"]:
    """Soft overlong punishment (DAPO equation 13), to be added to the reward.

    0 up to `max_length - zone` tokens, then falling linearly to -1 at `max_length`, -1 beyond.

    Args:
        lengths: tokens of each completion, its end-of-turn token included.
        max_length: the configured completion length.
        zone: width of the falling part in tokens; 0 = no penalty at all.

    Raises:
        ValueError: the zone is wider than the completion.
    """
    if not 0 <= zone <= max_length:
        raise ValueError(f"overlong zone is {zone} tokens, expected 0 to the completion length {max_length}")
    if zone == 0:
        return np.zeros(np.shape(lengths), np.float32)
    return np.clip((max_length - zone - lengths) / zone, -1.0, 0.0).astype(np.float32)


def informative_groups(
    rewards: Float[np.ndarray, "N G"], ok: Bool[np.ndarray, "N G"], threshold: float
) -> Bool[np.ndarray, "N"]:
    """Groups worth training on: at least two rewarded samples whose sample std is `threshold` or more."""
    return (np.asarray(ok).sum(axis=1) >= 2) & (group_std(rewards, ok) >= threshold)


def fill_slots(
    keep: Bool[np.ndarray, "N"], candidate_keep: Bool[np.ndarray, "M"]
) -> tuple[Int[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """Put informative candidate groups of a refill into the slots of dropped groups, first to first.

    Args:
        keep: slots whose own group stays.
        candidate_keep: which groups of the refill are informative.

    Returns:
        (source, filled): `source[i]` is the candidate for slot i, -1 where the slot keeps its own content;
        `filled` is `keep` with the newly filled slots added. Slots that are still False are masked in the update
        if no refill is left.
    """
    free = np.flatnonzero(~keep)
    candidates = np.flatnonzero(candidate_keep)
    taken = min(len(free), len(candidates))
    source = np.full(keep.shape, -1, np.int32)
    source[free[:taken]] = candidates[:taken]
    return source, keep | (source >= 0)
