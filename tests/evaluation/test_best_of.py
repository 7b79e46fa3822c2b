"""The best of n answers, by hand and against every choice of n."""

import itertools

import numpy as np
import pytest

from lam_jax.evaluation.best_of import best_of, best_of_curve, sizes
from lam_jax.evaluation.scoring import Scored
from lam_jax.rewards.verdict import Verdict


def test_by_hand():
    assert [best_of([3.0, 1.0, 2.0], n) for n in (1, 2, 3)] == pytest.approx([2, (2 + 3 + 3) / 3, 3])


def test_is_the_mean_over_all_choices():
    values = np.random.default_rng(0).normal(size=7).round(1).tolist()  # with equal ones
    for n in range(1, 8):
        expected = np.mean([max(chosen) for chosen in itertools.combinations(values, n)])
        assert best_of(values, n) == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 3])
def test_refuses_more_than_there_are(n):
    with pytest.raises(ValueError, match=f"n is {n}, expected 1 to 2"):
        best_of([1.0, 2.0], n)


def test_sizes_end_in_the_number_of_samples():
    assert [sizes(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def scored(row, *rewards):
    verdicts = [Verdict(error="down") if r is None else Verdict({"a": (r, 2.0), "b": (r, 2.0)}) for r in rewards]
    return [Scored(row, i, verdict) for i, verdict in enumerate(verdicts)]


def test_curve_is_a_mean_over_prompts_with_all_their_rewards():
    """The reward is a sum over a sum: 1 of 2 and 1 of 2 are a half."""
    answers = scored("x", 1, 2, 3) + scored("y", 4, 4, 4) + scored("z", 100, None, 100)
    assert best_of_curve(answers, 3) == pytest.approx({"1": (1 + 2) / 2, "2": (8 / 6 + 2) / 2, "3": (1.5 + 2) / 2})
    assert best_of_curve(scored("z", 1, None), 2) == {}
