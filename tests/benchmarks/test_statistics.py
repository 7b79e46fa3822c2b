"""Intervals, ratios and verdicts on made-up repeats."""

import numpy as np
import pytest

from benchmarks.statistics import Estimate, Target, estimate, ratio


def test_the_interval_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for i in range(200):
        found = estimate(rng.lognormal(0.0, 0.5, 15), seed=i)
        assert found.low <= found.value <= found.high
        held += found.low < 1.0 < found.high
    assert 0.88 <= held / 200 <= 0.995


def test_an_outlier_moves_neither_value_nor_interval_far():
    calm = estimate([1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0])
    hit = estimate([1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 60.0])
    assert hit.value == pytest.approx(calm.value, abs=0.011)
    assert hit.high < 1.05


def test_a_ratio_cancels_what_slows_a_whole_round_down():
    drift = [1, 2, 6, 1, 3, 1, 5, 1, 2]
    found = ratio([3.0 * d for d in drift], [2.0 * d for d in drift])
    assert found.value == found.low == found.high == pytest.approx(1.5)
    with pytest.raises(ValueError, match="found 2 and 1 repeats"):
        ratio([1.0, 2.0], [1.0])


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="expected one or more finite numbers"):
        estimate([])
    with pytest.raises(ValueError, match="expected one or more finite numbers"):
        estimate([1.0, float("nan")])


@pytest.mark.parametrize(
    ("interval", "least", "most"),
    [
        ((2.0, 1.9, 2.1), "undecided", "undecided"),
        ((3.0, 2.5, 3.5), "met", "missed"),
        ((1.0, 0.9, 1.1), "missed", "met"),
    ],
)
def test_a_threshold_inside_the_interval_is_undecided(interval, least, most):
    found = Estimate(*interval, repeats=9)
    assert Target(2.05, "at least").verdict(found) == least
    assert Target(2.05, "at most").verdict(found) == most


def test_a_figure_without_spread_on_its_threshold_keeps_it():
    assert Target(2.0, "at most").verdict(Estimate(2.0, 2.0, 2.0, 9)) == "met"
