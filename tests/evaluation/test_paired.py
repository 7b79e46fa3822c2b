"""Paired comparison: every number by hand."""

import math

import numpy as np
import pytest

from lam_jax.evaluation.paired import compare
from lam_jax.evaluation.scoring import Scored
from lam_jax.rewards.verdict import Verdict


def scored(table: dict[str, list[float | None]]) -> list[Scored]:
    """Of each row its samples' scores; None: the call failed."""
    return [
        Scored(row, n, Verdict(error="x") if value is None else Verdict({"d": (value, 1.0)}))
        for row, values in table.items()
        for n, value in enumerate(values)
    ]


FIRST = scored({"a": [0.9, 0.7], "b": [0.5, 0.5], "c": [0.4, 0.2], "d": [0.6, None], "only": [1.0, 1.0]})
SECOND = scored({"e": [1.0, 1.0], "a": [0.6, 0.6], "b": [0.5, 0.5], "c": [0.5, 0.5], "d": [0.2, 0.9]})


def test_a_comparison_by_hand():
    found = compare(FIRST, SECOND)
    # a: .8 - .6 = .2; b: 0; c: .3 - .5 = -.2; d: only sample 0 is scored in both: .6 - .2 = .4; "only", "e": no pair.
    assert (found.prompts, found.unpaired) == (4, 2)
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.difference.mean == pytest.approx(0.4 / 4)
    assert found.first_mean == pytest.approx((0.8 + 0.5 + 0.3 + 0.6) / 4)
    assert found.second_mean == pytest.approx((0.6 + 0.5 + 0.5 + 0.2) / 4)
    assert found.win_rate == pytest.approx(2 / 3)
    assert found.p_value == pytest.approx(1.0)  # 2 of 3: P(at least 2 or at most 1) = 1
    # Clopper-Pearson of 2 of 3 at 95 %: 0.0943 and 0.9916 (tables).
    assert (found.win_low, found.win_high) == pytest.approx((0.0943, 0.9916), abs=1e-4)


def test_the_sign_test_by_hand():
    """8 wins, 2 ties, 1 loss: 2 (1 + 9) / 2^9 for at most 1 of 9."""
    first = scored({f"r{i}": [1.0] for i in range(11)})
    second = scored({f"r{i}": [0.5 if i < 8 else 1.0 if i < 10 else 1.5] for i in range(11)})
    found = compare(first, second)
    assert (found.wins, found.ties, found.losses) == (8, 2, 1)
    assert found.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert compare(second, first).p_value == pytest.approx(found.p_value)


def test_rounding_is_no_win():
    found = compare(scored({"a": [0.1 + 0.2], "b": [1.0]}), scored({"a": [0.3], "b": [1.0]}))
    assert (found.wins, found.ties, found.losses, found.p_value) == (0, 2, 0, 1.0)
    assert math.isnan(found.win_rate)


def test_the_bootstrap_is_the_same_for_one_seed_and_resamples_pairs():
    rng = np.random.default_rng(0)
    base = rng.normal(size=60) + 5  # prompts differ much, agents hardly
    gain = rng.normal(0.1, 0.05, size=60)
    first = scored({f"r{i}": [float(base[i] + gain[i])] for i in range(60)})
    second = scored({f"r{i}": [float(base[i])] for i in range(60)})
    found = compare(first, second, seed=3).difference
    assert found == compare(first[::-1], second, seed=3).difference
    assert found != compare(first, second, seed=4).difference
    # The normal interval of the paired differences, not that of two independent means (about 0.7 wide).
    half = 1.96 * gain.std(ddof=1) / math.sqrt(60)
    assert found.low == pytest.approx(gain.mean() - half, abs=0.004)
    assert found.high == pytest.approx(gain.mean() + half, abs=0.004)


def test_one_prompt_has_no_interval():
    found = compare(scored({"a": [1.0]}), scored({"a": [0.5]}))
    assert found.difference.mean == 0.5
    assert math.isnan(found.difference.low)


def test_nothing_in_common_is_refused():
    with pytest.raises(ValueError, match="no answer is scored in both"):
        compare(scored({"a": [1.0]}), scored({"b": [1.0]}))
    with pytest.raises(ValueError, match="no answer is scored in both"):
        compare(scored({"a": [1.0, None]}), scored({"a": [None, 1.0]}))
    with pytest.raises(ValueError, match="scored twice"):
        compare(scored({"a": [1.0]}) * 2, scored({"a": [1.0]}))
