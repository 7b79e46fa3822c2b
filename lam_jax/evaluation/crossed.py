"""Scores over prompts and seeds: an agent of each seed answers the same prompts, so that both are sampled.

S seeds, P prompts; a value is NaN where a seed has no score of a prompt, and every value that is there counts once.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from lam_jax.evaluation.scoring import BOOTSTRAP_DRAWS, Estimate

Values = Float[np.ndarray, "S P"]
Verdict = Literal["supported", "not supported", "undecided"]
CONFIDENCE, POWER = 0.95, 0.8


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first set of agents against the second, on the same seeds and prompts.

    Attributes:
        mean: first - second.
        low, high: its interval, from the lower to the higher end of two: the bootstrap over prompts and seeds, and
            Student's t over the seeds' means with S - 1 degrees of freedom, since a bootstrap over few seeds is too
            narrow. With one seed the bootstrap over prompts alone, which says nothing of other seeds.
        seeds, prompts: S and P.
        resolvable: the difference that this design would have told from 0 in `POWER` of all repetitions, from the
            larger of the two standard errors; NaN where none can be told.
        verdict: on "the first is better": see `verdict_of`.
    """

    mean: float
    low: float
    high: float
    seeds: int
    prompts: int
    resolvable: float
    verdict: Verdict


def bootstrap_means(values: Values, draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> Float[np.ndarray, " draws"]:
    """Means of tables whose seeds and whose prompts are drawn anew, independently of each other, with replacement."""
    seeds, prompts = values.shape
    rng = np.random.default_rng(seed)
    by_prompt = rng.multinomial(prompts, np.full(prompts, 1 / prompts), draws).astype(float)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws).astype(float)
    present = ~np.isnan(values)
    sums = np.einsum("bs,sp,bp->b", by_seed, np.where(present, values, 0.0), by_prompt, optimize=True)
    counts = np.einsum("bs,sp,bp->b", by_seed, present.astype(float), by_prompt, optimize=True)
    return sums[counts > 0] / counts[counts > 0]


def crossed_interval(values: Values, confidence: float = CONFIDENCE, seed: int = 0) -> Estimate:
    """Mean, and percentiles of the bootstrap over prompts and seeds (prompts alone where there is one seed).

    NaN where there is nothing to average, and NaN bounds with fewer than two prompts.
    """
    if np.isnan(values).all():
        return Estimate(math.nan, math.nan, math.nan)
    mean = float(np.nanmean(values))
    if _prompts(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(bootstrap_means(values, seed=seed), [tail, 1 - tail])
    return Estimate(mean, float(low), float(high))


def paired_difference(
    first: Values, second: Values, margin: float, confidence: float = CONFIDENCE, seed: int = 0
) -> Difference:
    """The comparison of two tables of the same seeds and prompts, over what both have.

    Args:
        first, second: scores.
        margin: the least difference that matters.
        confidence: of the interval.
        seed: of the bootstrap.

    Raises:
        ValueError: the tables have different shapes, or no value is in both.
    """
    from scipy import stats  # here: importing it takes a second or more

    if first.shape != second.shape:
        raise ValueError(f"found tables {first.shape} and {second.shape}, expected the same seeds and prompts")
    values = first - second
    values = values[~np.isnan(values).all(axis=1)]
    if not len(values):
        raise ValueError("no prompt has a score in both of one seed, expected the same seeds and prompts")
    found = crossed_interval(values, confidence, seed)
    low, high, seeds = found.low, found.high, len(values)
    error = float(bootstrap_means(values, seed=seed).std()) if _prompts(values) > 1 else math.nan
    quantiles = [0.5 + confidence / 2, POWER]
    if seeds > 1:
        means = np.nanmean(values, axis=1)
        over_seeds = float(means.std(ddof=1) / math.sqrt(seeds))
        half = float(stats.t.ppf(quantiles[0], seeds - 1)) * over_seeds
        low, high = min(low, found.mean - half), max(high, found.mean + half)
        error = max(error, over_seeds)
        sizes = stats.t.ppf(quantiles, seeds - 1)
    else:
        sizes = stats.norm.ppf(quantiles)
    verdict = verdict_of(low, high, margin) if seeds > 1 else "undecided"
    return Difference(found.mean, low, high, seeds, _prompts(values), float(np.sum(sizes)) * error, verdict)


def verdict_of(low: float, high: float, margin: float) -> Verdict:
    """On "the first is better than the second", from the interval of their difference.

    supported      the whole interval is above 0
    not supported  it reaches 0 or lies below, and stays under `margin`: a difference that matters is ruled out
    undecided      neither, or there is no interval
    """
    if low > 0:
        return "supported"
    return "not supported" if high < margin else "undecided"


def _prompts(values: Values) -> int:
    return int((~np.isnan(values)).any(axis=0).sum())
