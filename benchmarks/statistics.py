"""Medians with bootstrap intervals, ratios of interleaved repeats, and verdicts that may be "undecided"."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

RESAMPLES = 4000
COVERAGE = 0.95

Verdict = Literal["met", "missed", "undecided"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A median of repeats and its bootstrap interval."""

    value: float
    low: float
    high: float
    repeats: int

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


def estimate(samples: Sequence[float], seed: int = 0) -> Estimate:
    """Median of `samples` with the percentile bootstrap interval of the median.

    Raises:
        ValueError: no samples, or one that is not finite.
    """
    values = np.asarray(samples, float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"estimate: found {list(samples)}, expected one or more finite numbers.")
    rng = np.random.default_rng(seed)
    medians = np.median(values[rng.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(medians, (tail, 1 - tail))
    return Estimate(float(np.median(values)), float(low), float(high), len(values))


def ratio(over: Sequence[float], under: Sequence[float], seed: int = 0) -> Estimate:
    """Median over rounds of `over[i] / under[i]`: what slows a whole round down cancels.

    Raises:
        ValueError: the two were not repeated equally often.
    """
    if len(over) != len(under):
        raise ValueError(f"ratio: found {len(over)} and {len(under)} repeats, expected one of each in every round.")
    return estimate([a / b for a, b in zip(over, under)], seed)


@dataclasses.dataclass(frozen=True)
class Target:
    """A threshold that a figure has to keep."""

    threshold: float
    side: Literal["at least", "at most"]

    def verdict(self, found: Estimate) -> Verdict:
        """`undecided` when the interval holds the threshold."""
        if found.low < self.threshold < found.high:
            return "undecided"
        kept = found.value >= self.threshold if self.side == "at least" else found.value <= self.threshold
        return "met" if kept else "missed"
