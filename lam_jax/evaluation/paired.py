"""Two agents on the same prompts: difference of scores, and who wins how often.

P prompts that both have.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from lam_jax.evaluation.scoring import Estimate, Scored, check_keys, interval

TIE = 1e-9  # scores are ratios of small numbers: less than this apart they are equal but for rounding


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The first agent against the second.

    A prompt's difference is the mean over the samples that are scored in both, by their numbers.

    Attributes:
        prompts: P.
        unpaired: prompts that have no sample scored in both, and were left out.
        first_mean, second_mean: scores over the P prompts and their samples.
        difference: first - second, mean over prompts, with its bootstrap interval over prompts.
        wins, ties, losses: of the first, by prompt.
        win_rate: wins / (wins + losses); NaN where all are ties.
        win_low, win_high: its exact (Clopper-Pearson) interval.
        p_value: of the two-sided sign test: how likely as uneven a count is if either wins as often; ties are left out.
    """

    prompts: int
    unpaired: int
    first_mean: float
    second_mean: float
    difference: Estimate
    wins: int
    ties: int
    losses: int
    win_rate: float
    win_low: float
    win_high: float
    p_value: float


def compare(first: Iterable[Scored], second: Iterable[Scored], confidence: float = 0.95, seed: int = 0) -> Comparison:
    """The paired comparison of two sets of verdicts.

    Args:
        first, second: verdicts in any order, keyed by (row, sample); failed calls count as missing.
        confidence: of the intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: no (row, sample) is scored in both, or one occurs twice.
    """
    from scipy import stats  # here: importing it takes a second or more

    old, new = _by_key(second), _by_key(first)
    both = sorted(old.keys() & new.keys())
    rows: dict[str, list[tuple[float, float]]] = {}
    for key in both:
        rows.setdefault(key[0], []).append((new[key], old[key]))
    if not rows:
        raise ValueError(
            f"no answer is scored in both ({len(new)} scored answers of the first, {len(old)} of the second), expected "
            "the same rows"
        )
    means = np.array([np.mean(pairs, axis=0) for pairs in rows.values()])
    differences = means[:, 0] - means[:, 1]
    wins, losses = int((differences > TIE).sum()), int((differences < -TIE).sum())
    decided = wins + losses
    if decided:
        test = stats.binomtest(wins, decided)
        bounds = test.proportion_ci(confidence, method="exact")
        rate, low, high, p = wins / decided, float(bounds.low), float(bounds.high), float(test.pvalue)
    else:
        rate, low, high, p = math.nan, math.nan, math.nan, 1.0
    return Comparison(
        prompts=len(rows),
        unpaired=len({row for row, _ in old.keys() | new.keys()}) - len(rows),
        first_mean=float(means[:, 0].mean()),
        second_mean=float(means[:, 1].mean()),
        difference=interval(differences[:, None], confidence, "bootstrap", seed),
        wins=wins,
        ties=len(rows) - decided,
        losses=losses,
        win_rate=rate,
        win_low=low,
        win_high=high,
        p_value=p,
    )


def _by_key(scored: Iterable[Scored]) -> dict[tuple[str, int], float]:
    scored = list(scored)
    check_keys(scored)
    return {(item.row, item.sample): item.verdict.mean_ratio for item in scored if item.verdict.ok}
