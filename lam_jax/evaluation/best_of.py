"""The best of n answers: the score that a choice among n samples would have, for each n up to the number drawn."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lam_jax.evaluation.scoring import Scored


def best_of(values: Sequence[float], n: int) -> float:
    """Mean of the largest of n of these values, over all ways to choose n of them: unbiased for independent samples.

    Raises:
        ValueError: n is not between 1 and the number of values.
    """
    if not 1 <= n <= len(values):
        raise ValueError(f"n is {n}, expected 1 to {len(values)}, the number of values.")
    ordered = np.sort(np.asarray(values, np.float64))
    # The i-th smallest is the largest of n in as many ways as n - 1 others can be chosen of the i before it.
    ways = [math.comb(i, n - 1) for i in range(len(ordered))]
    return float(np.dot(ordered, ways) / math.comb(len(ordered), n))


def sizes(samples: int) -> list[int]:
    """1, 2, 4, 8 .. up to the number of samples, which is the last."""
    found = [2**i for i in range(samples.bit_length()) if 2**i < samples]
    return [*found, samples]


def best_of_curve(scored: Iterable[Scored], samples: int) -> dict[str, float]:
    """By n: mean over prompts of the best of n rewards; prompts of which a call failed are left out.

    Args:
        scored: verdicts on `samples` answers to each prompt.
        samples: of a prompt.

    Returns:
        Nothing where every prompt has a failed call.
    """
    rewards: dict[str, list[float]] = {}
    for item in scored:
        if item.verdict.ok:
            rewards.setdefault(item.row, []).append(item.verdict.reward)
    whole = [values for values in rewards.values() if len(values) == samples]
    if not whole:
        return {}
    return {str(n): float(np.mean([best_of(values, n) for values in whole])) for n in sizes(samples)}
