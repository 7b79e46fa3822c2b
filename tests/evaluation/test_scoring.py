import math

import numpy as np
import pytest

from lam_jax.evaluation.scoring import Scored, interval, paired_gain, summarise
from lam_jax.rewards.verdict import Verdict


def verdict(*pairs):
    return Verdict({f"dimension {i}": (float(a), float(b)) for i, (a, b) in enumerate(pairs)})


def single(row, sample, ratio):
    return Scored(row, sample, Verdict({"all": (ratio, 1.0)}))


FAILED = Verdict(error="no reply")


def test_verdict_by_hand():
    """Training reward (9 + 4) / (10 + 8); evaluation score (0.9 + 0.5) / 2."""
    made = verdict((9, 10), (4, 8))
    assert made.reward == pytest.approx(13 / 18)
    assert made.mean_ratio == pytest.approx(0.7)


def test_summary_by_hand():
    """Two prompts, two samples: ratios 1, 0.5 / 0.8, and one failed call."""
    scored = [
        Scored("b", 0, verdict((10, 10), (10, 10))),
        Scored("a", 1, verdict((8, 10), (4, 5))),
        Scored("a", 0, verdict((6, 10), (2, 5))),
        Scored("b", 1, FAILED),
    ]
    summary = summarise(scored)
    assert summary.score.mean == pytest.approx((1 + 0.8 + 0.5) / 3)
    assert summary.dimensions["dimension 0"].mean == pytest.approx((1 + 0.8 + 0.6) / 3)
    assert summary.dimensions["dimension 1"].mean == pytest.approx((1 + 0.8 + 0.4) / 3)
    assert summary.sample_means == pytest.approx((0.75, 0.8))
    assert summary.sample_std == pytest.approx(0.05 / math.sqrt(2))
    assert (summary.prompts, summary.samples, summary.failed) == (2, 3, 1)


def test_order_does_not_matter():
    rng = np.random.default_rng(0)
    scored = [single(f"row {i}", k, float(rng.uniform())) for i in range(20) for k in range(3)]
    shuffled = [scored[i] for i in rng.permutation(len(scored))]
    assert summarise(scored) == summarise(shuffled)
    assert summarise(scored, method="bootstrap") == summarise(shuffled, method="bootstrap")


def test_normal_interval_by_hand():
    """Prompt means 0, 1, 2, 3: standard deviation sqrt(5/3), standard error half of it."""
    values = np.repeat(np.arange(4.0)[:, None], 3, axis=1)  # three equal samples add no information
    half = 1.959964 * math.sqrt(5 / 3) / 2
    got = interval(values)
    assert (got.mean, got.low, got.high) == pytest.approx((1.5, 1.5 - half, 1.5 + half), rel=1e-5)


@pytest.mark.parametrize("method", ["normal", "bootstrap"])
def test_interval_covers_the_truth(method):
    """Prompt effects with noise inside: the 90 % interval covers 0 in 90 % of 300 worlds (standard error 1.7 %)."""
    rng = np.random.default_rng(1)
    covered = 0
    for world in range(300):
        values = rng.normal(size=(40, 1)) + 0.5 * rng.normal(size=(40, 3))
        values[rng.uniform(size=values.shape) < 0.1] = np.nan
        got = interval(values, confidence=0.9, method=method, seed=world)
        covered += got.low <= 0 <= got.high
    assert 0.84 <= covered / 300 <= 0.95


def test_one_prompt_has_no_interval():
    got = interval(np.array([[0.5, 0.7]]))
    assert got.mean == pytest.approx(0.6)
    assert math.isnan(got.low)


def test_all_calls_failed():
    summary = summarise([Scored("a", 0, FAILED)])
    assert math.isnan(summary.score.mean)
    assert (summary.prompts, summary.samples, summary.failed) == (0, 0, 1)


def test_paired_gain_by_hand():
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1, error 0.1 / sqrt 3; row d has no pair."""
    before = [single("a", 0, 0.5), single("b", 0, 0.4), single("b", 1, 0.6), single("c", 0, 0.5), single("d", 0, 9.0)]
    after = [single("a", 0, 0.6), single("b", 0, 0.7), single("c", 5, 0.8), Scored("d", 0, FAILED)]
    gain = paired_gain(before, after)
    assert (gain.prompts, gain.unpaired) == (3, 1)
    assert (gain.before, gain.after, gain.difference) == pytest.approx((0.5, 0.7, 0.2))
    assert gain.paired_se == pytest.approx(0.1 / math.sqrt(3))
    assert gain.ratio == pytest.approx(2 * math.sqrt(3))


def test_paired_gain_without_spread():
    same = [single("a", 0, 0.5), single("b", 0, 0.5)]
    better = [single("a", 0, 1.0), single("b", 0, 1.0)]
    assert paired_gain(same, same).ratio == 0
    assert paired_gain(same, better).ratio == math.inf
    assert paired_gain(better, same).ratio == -math.inf


def test_too_few_pairs_is_an_error():
    with pytest.raises(ValueError, match="1 prompts are scored both"):
        paired_gain([single("a", 0, 0.5)], [single("a", 0, 0.5), single("b", 0, 0.5)])


def test_duplicate_key_is_an_error():
    with pytest.raises(ValueError, match="row 'a', sample 0 is scored twice"):
        summarise([single("a", 0, 0.5), single("a", 0, 0.6)])


def test_mixed_dimensions_are_an_error():
    with pytest.raises(ValueError, match="score one task at a time"):
        summarise([single("a", 0, 0.5), Scored("b", 0, verdict((1, 1)))])


def test_failed_verdict_has_no_reward():
    with pytest.raises(ValueError, match="no reply"):
        _ = FAILED.reward


def test_verdict_needs_scores_or_an_error():
    with pytest.raises(ValueError, match="scores or an error"):
        Verdict()
    with pytest.raises(ValueError, match="expected more than 0"):
        verdict((1, 0))
