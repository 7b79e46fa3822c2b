import dataclasses

import numpy as np
import pytest

from lam_jax.errors import RewardError
from lam_jax.rl import ALGORITHMS, compute_advantages, fill_failed
from lam_jax.rl.advantages import group_std, normalise_rewards

REWARDS = np.array([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]], np.float32)
ALL = np.ones(REWARDS.shape, bool)


def test_group_std_by_hand():
    """Row 0: mean 3, deviations -2 -1 0 3, sample variance 14/3; row 1 has no variance at all."""
    std = np.sqrt(14 / 3) + 1e-4
    got = normalise_rewards(REWARDS, ALL, "group_std")
    np.testing.assert_allclose(got, [[-2 / std, -1 / std, 0, 3 / std], [0, 0, 0, 0]], rtol=1e-6)


def test_group_mean_by_hand():
    np.testing.assert_allclose(normalise_rewards(REWARDS, ALL, "group_mean"), [[-2, -1, 0, 3], [0, 0, 0, 0]])


def test_batch_std_by_hand():
    """All eight rewards: mean 4, squared deviations 9 + 4 + 1 + 4 + 4 * 1 = 22, over 7."""
    std = np.sqrt(22 / 7) + 1e-4
    got = normalise_rewards(REWARDS, ALL, "batch_std")
    np.testing.assert_allclose(got, [[-2 / std, -1 / std, 0, 3 / std], [0, 0, 0, 0]], rtol=1e-6)


def test_failed_calls_leave_the_statistics():
    """Group 0 keeps 1, 2, 3 (mean 2, std 1); group 1 keeps a single sample and is dropped."""
    ok = np.array([[True, True, True, False], [False, True, False, False]])
    rewards = np.where(ok, REWARDS, np.nan).astype(np.float32)
    got, active = compute_advantages(ALGORITHMS["grpo"], rewards, ok)
    one = 1 / (1 + 1e-4)
    np.testing.assert_allclose(got, [[-one, 0, one, 0], [0, 0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(active, [[True, True, True, False], [False] * 4])


def test_batch_std_ignores_dropped_groups():
    ok = np.array([[True, True, True, False], [False, True, False, False]])
    algorithm = dataclasses.replace(ALGORITHMS["grpo"], advantage="batch_std")
    got, _ = compute_advantages(algorithm, REWARDS, ok)
    np.testing.assert_allclose(got[0], [-1 / 1.0001, 0, 1 / 1.0001, 0], rtol=1e-6)


def test_official_fill_divides_by_the_group_size():
    """(1 + 2 + 3) / 4 = 1.5 for the failed sample: biased low, and the sample stays in the update."""
    ok = np.array([[True, True, True, False], [True] * 4])
    np.testing.assert_allclose(fill_failed(REWARDS, ok)[0], [1, 2, 3, 1.5])
    got, active = compute_advantages(ALGORITHMS["grpo"].official(), REWARDS, ok)
    values = np.array([1, 2, 3, 1.5])
    expected = (values - values.mean()) / (values.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5)
    assert active.all()


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "batch_std"])
def test_no_reward_at_all_gives_zero(kind):
    got = normalise_rewards(np.full((2, 3), np.nan, np.float32), np.zeros((2, 3), bool), kind)
    np.testing.assert_array_equal(got, np.zeros((2, 3)))


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "batch_std"])
@pytest.mark.parametrize(
    "row",
    [[100.1] * 8, [1000.1] * 12, [0.1] * 3, [1e-30] * 5, [-7.7e8] * 7, [0.1 + 0.2, 0.3, 0.15 + 0.15], [1e30] * 3],
)
def test_equal_rewards_have_no_advantage_at_all(kind, row):
    """However large they are; sums of the same parts in another order are equal rewards too."""
    got = normalise_rewards(np.array([row]), np.ones((1, len(row)), bool), kind)
    assert not got.any()
    beside = normalise_rewards(np.array([row, np.arange(len(row))]), np.ones((2, len(row)), bool), kind)
    assert not beside[0].any()
    assert beside[1].any()


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("group_std", [1e308, -1e308, 0.0]),
        ("group_std", [1e200, -1e200, 0.0]),  # the squares overflow: the advantages would be 0
        ("batch_std", [1e200, -1e200, 0.0]),
        ("group_mean", [1e40, 0.0, 0.0]),  # beyond float32
    ],
)
def test_rewards_whose_statistics_overflow_are_refused(kind, row):
    with pytest.raises(RewardError, match=r"Rewards of one step go from .*e\+\d+.*Scale or bound the reward"):
        normalise_rewards(np.array([row]), np.ones((1, 3), bool), kind)
    failed = np.array([[False, True, True]])  # what a failed call left behind does not count
    assert np.isfinite(normalise_rewards(np.array([[1e308, 1.0, 2.0]]), failed, kind)).all()


def test_equal_rewards_beside_failed_calls():
    ok = np.array([[False, True, True, True, False, True]])
    got = normalise_rewards(np.array([[np.nan, 100.1, 100.1, 100.1, 5.0, 100.1]]), ok, "group_std")
    np.testing.assert_array_equal(got, np.zeros((1, 6)))
    assert not group_std(np.array([[3.0, np.nan, 7.0]]), np.array([[True, False, False]])).any()


def test_a_small_difference_of_large_rewards_is_one():
    """1e6 and 1e6 + 1e-4: in float32 they would be equal."""
    got = normalise_rewards(np.array([[1e6, 1e6 + 1e-4]]), np.ones((1, 2), bool), "group_mean")
    np.testing.assert_allclose(got, [[-5e-5, 5e-5]], rtol=1e-5)
