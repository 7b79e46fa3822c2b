"""Scores of a run (method.md section 5): mean answer/reference ratio, with intervals over prompts.

Prompts are the independent units: samples of one prompt are not, so every interval and standard error clusters by
prompt. P prompts, S samples of each.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from lam_jax.rewards.verdict import Verdict

Method = Literal["normal", "bootstrap"]
BOOTSTRAP_DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Scored:
    """The verdict on sample number `sample` of the prompt `row`."""

    row: str
    sample: int
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval over prompts; all NaN if there was nothing to average."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class ScoreSummary:
    """Score of one model on one split.

    Attributes:
        score: mean over prompts and samples of the mean over dimensions of answer / reference.
        dimensions: the same of each dimension, or mean of each named part of the reward.
        sample_means: the score of each sample number on its own, e.g. of three.
        sample_std: their standard deviation (n - 1); 0 for a single sample.
        prompts: prompts with at least one successful call.
        samples: successful calls.
        failed: calls that failed and were dropped.
    """

    score: Estimate
    dimensions: dict[str, Estimate]
    sample_means: tuple[float, ...]
    sample_std: float
    prompts: int
    samples: int
    failed: int


@dataclasses.dataclass(frozen=True)
class PairedGain:
    """Change of the score on the same prompts.

    Attributes:
        prompts: prompts scored in both; `unpaired` others were left out.
        before, after: means over those prompts of their mean over samples.
        difference: after - before.
        paired_se: standard error of the difference over prompts.
        ratio: difference / paired_se; infinite with the difference's sign when the error is 0, 0 for no difference.
    """

    prompts: int
    unpaired: int
    before: float
    after: float
    difference: float
    paired_se: float
    ratio: float


def summarise(
    scored: Iterable[Scored], confidence: float = 0.95, method: Method = "normal", seed: int = 0
) -> ScoreSummary:
    """Mean score, dimensions and their confidence intervals over prompts.

    Every successful call counts once, so a prompt with a failed call weighs less. `normal` uses the cluster-robust
    standard error, `bootstrap` resamples whole prompts (percentiles of 2,000 draws).

    Args:
        scored: verdicts in any order.
        confidence: of the intervals.
        method: see above.
        seed: of the bootstrap.

    Raises:
        ValueError: a (row, sample) occurs twice, or verdicts name different dimensions.
    """
    scored = list(scored)
    check_keys(scored)
    _check_dimensions(scored)
    successful = [item for item in scored if item.verdict.ok]
    rows = sorted({item.row for item in successful})
    samples = sorted({item.sample for item in successful})
    names = list(successful[0].verdict.named) if successful else []

    def estimate(value: Callable[[Verdict], float]) -> Estimate:
        return interval(_table(successful, rows, samples, value), confidence, method, seed)

    overall = _table(successful, rows, samples, lambda verdict: verdict.mean_ratio)
    sample_means = tuple(float(np.nanmean(column)) for column in overall.T)
    return ScoreSummary(
        score=interval(overall, confidence, method, seed),
        dimensions={name: estimate(lambda verdict, name=name: verdict.named[name]) for name in names},
        sample_means=sample_means,
        sample_std=float(np.std(sample_means, ddof=1)) if len(samples) > 1 else 0.0,
        prompts=len(rows),
        samples=len(successful),
        failed=len(scored) - len(successful),
    )


def interval(
    values: Float[np.ndarray, "P S"], confidence: float = 0.95, method: Method = "normal", seed: int = 0
) -> Estimate:
    """Mean of all values that are not NaN, and its confidence interval over prompts.

    Raises:
        ValueError: the confidence is not between 0 and 1, or the method is unknown.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a share between 0 and 1 such as 0.95")
    present = ~np.isnan(values)
    sums, counts = np.where(present, values, 0.0).sum(axis=1), present.sum(axis=1)
    if counts.sum() == 0:
        return Estimate(math.nan, math.nan, math.nan)
    mean = sums.sum() / counts.sum()
    prompts = len(sums)
    if prompts == 1:  # one prompt says nothing about the spread over prompts
        return Estimate(float(mean), math.nan, math.nan)
    if method == "normal":
        deviations = sums - mean * counts  # of each prompt's sum: the influence of a cluster on a ratio of sums
        error = math.sqrt(prompts / (prompts - 1) * np.square(deviations).sum()) / counts.sum()
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
        return Estimate(float(mean), float(mean - half), float(mean + half))
    if method == "bootstrap":
        from scipy import stats  # here: importing it takes a second or more, and nothing else needs it

        def mean_of(drawn: np.ndarray, axis: int) -> np.ndarray:
            return sums[drawn].sum(axis) / np.maximum(counts[drawn].sum(axis), 1)

        found = stats.bootstrap(
            (np.arange(prompts),),
            mean_of,
            n_resamples=BOOTSTRAP_DRAWS,
            vectorized=True,
            confidence_level=confidence,
            method="percentile",
            rng=seed,
        )
        low, high = found.confidence_interval
        return Estimate(float(mean), float(low), float(high))
    raise ValueError(f"interval method is {method!r}, expected 'normal' or 'bootstrap'")


def paired_gain(before: Iterable[Scored], after: Iterable[Scored]) -> PairedGain:
    """Difference of two sets of verdicts on the same prompts, with the paired standard error over prompts.

    A prompt's score is the mean over its successful samples; sample numbers need not correspond.

    Raises:
        ValueError: fewer than two prompts have a score in both, or a (row, sample) occurs twice in one of them.
    """
    old, new = _prompt_means(before), _prompt_means(after)
    common = sorted(old.keys() & new.keys())
    if len(common) < 2:
        raise ValueError(
            f"{len(common)} prompts are scored both before ({len(old)}) and after ({len(new)}), expected at least 2; "
            "evaluate both on the same prompts"
        )
    differences = np.array([new[row] - old[row] for row in common])
    difference = float(differences.mean())
    error = float(differences.std(ddof=1) / math.sqrt(len(common)))
    no_spread = 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return PairedGain(
        prompts=len(common),
        unpaired=len(old.keys() ^ new.keys()),
        before=float(np.mean([old[row] for row in common])),
        after=float(np.mean([new[row] for row in common])),
        difference=difference,
        paired_se=error,
        ratio=difference / error if error > 0 else no_spread,
    )


def _prompt_means(scored: Iterable[Scored]) -> dict[str, float]:
    scored = list(scored)
    check_keys(scored)
    values: dict[str, list[float]] = {}
    for item in scored:
        if item.verdict.ok:
            values.setdefault(item.row, []).append(item.verdict.mean_ratio)
    return {row: float(np.mean(ratios)) for row, ratios in values.items()}


def _table(
    successful: Sequence[Scored], rows: list[str], samples: list[int], value: Callable[[Verdict], float]
) -> Float64[np.ndarray, "P S"]:
    row_of, sample_of = {row: i for i, row in enumerate(rows)}, {sample: i for i, sample in enumerate(samples)}
    table = np.full((len(rows), len(samples)), np.nan)
    for item in successful:
        table[row_of[item.row], sample_of[item.sample]] = value(item.verdict)
    return table


def check_keys(scored: Sequence[Scored]) -> None:
    """Raises ValueError if a (row, sample) occurs twice."""
    seen: set[tuple[str, int]] = set()
    for item in scored:
        if (item.row, item.sample) in seen:
            raise ValueError(
                f"row {item.row!r}, sample {item.sample} is scored twice, expected once; number the samples of a row"
            )
        seen.add((item.row, item.sample))


def _check_dimensions(scored: Sequence[Scored]) -> None:
    expected: list[str] | None = None
    for item in scored:
        if item.verdict.ok:
            names = sorted(item.verdict.named)
            expected = names if expected is None else expected
            if names != expected:
                raise ValueError(
                    f"row {item.row!r}, sample {item.sample}: dimensions {names}, expected {expected} as in the rows "
                    "before; score one task at a time"
                )
