"""Intervals over prompts and seeds, and verdicts, by hand."""

import math

import numpy as np
import pytest

from lam_jax.evaluation.crossed import bootstrap_means, crossed_interval, paired_difference, verdict_of

NAN = math.nan


def test_the_mean_counts_every_score_that_is_there_once():
    found = crossed_interval(np.array([[1.0, 2.0, NAN], [3.0, 4.0, 5.0]]))
    assert found.mean == pytest.approx(3.0)
    assert found.low < 3.0 < found.high


def test_one_seed_draws_prompts_alone():
    """Two prompts, 0 and 1: the means drawn are 0, 1/2 and 1 with 1/4, 1/2 and 1/4."""
    drawn = bootstrap_means(np.array([[0.0, 1.0]]), draws=4000)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert np.allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_seeds_are_drawn_as_prompts_are():
    """A table whose rows are constant: prompts say nothing, the means are those of two seeds drawn from 0 and 1."""
    drawn = bootstrap_means(np.array([[0.0] * 5, [1.0] * 5]), draws=4000)
    values, counts = np.unique(np.round(drawn, 9), return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert np.allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_few_seeds_widen_the_interval_by_students_t():
    """Differences .1 and .3 of two seeds: error .1, t of one degree of freedom 12.7062 and 1.3764."""
    first, second = np.array([[0.5, 0.7], [0.8, 0.9]]), np.array([[0.4, 0.6], [0.5, 0.6]])
    found = paired_difference(first, second, margin=0.02)
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 1.27062, 0.2 + 1.27062), abs=1e-4)
    assert found.resolvable == pytest.approx(1.40826, abs=1e-4)
    assert (found.seeds, found.prompts, found.verdict) == (2, 2, "undecided")


def test_pairs_take_out_what_both_have_in_common():
    """Scores that vary by .9 and differ by .1 everywhere."""
    second = np.linspace(0, 0.9, 30).reshape(3, 10)
    found = paired_difference(second + 0.1, second, margin=0.02)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.verdict == "supported"
    assert paired_difference(second, second, margin=0.02).verdict == "not supported"
    assert paired_difference(second - 0.1, second, margin=0.02).verdict == "not supported"


def test_what_one_side_lacks_is_left_out():
    first, second = np.array([[0.5, NAN], [NAN, NAN]]), np.array([[0.1, 0.9], [0.1, 0.9]])
    found = paired_difference(first, second, margin=0.02)
    assert (found.mean, found.seeds, found.prompts) == (pytest.approx(0.4), 1, 1)
    assert math.isnan(found.low)
    assert found.verdict == "undecided"
    with pytest.raises(ValueError, match="no prompt has a score in both"):
        paired_difference(first[1:], second[1:], margin=0.02)


def test_one_seed_decides_nothing():
    second = np.linspace(0, 0.9, 10)[None]
    found = paired_difference(second + 0.1, second, margin=0.02)
    assert found.low > 0
    assert found.verdict == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.5, "supported"),
        (0.0, 0.5, "undecided"),
        (-0.01, 0.0199, "not supported"),
        (-0.01, 0.02, "undecided"),
        (-0.5, -0.1, "not supported"),
        (NAN, NAN, "undecided"),
    ],
)
def test_verdicts(low, high, verdict):
    assert verdict_of(low, high, 0.02) == verdict
