import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.rl import completion_mask, ends_well, fill_slots, informative_groups, overlong_penalty

EOS = 9


def test_completion_mask_ends_with_the_first_eos():
    tokens = jnp.array([[[1, 9, 3, 9], [1, 2, 3, 4]], [[9, 9, 9, 9], [1, 2, 3, 9]]], jnp.int32)
    expected = [[[1, 1, 0, 0], [1, 1, 1, 1]], [[1, 0, 0, 0], [1, 1, 1, 1]]]
    np.testing.assert_array_equal(completion_mask(tokens, EOS), np.array(expected, bool))


def test_overlong_penalty_by_hand():
    """Ten tokens, zone of four: free up to six, then a quarter per token."""
    got = overlong_penalty(np.array([1, 6, 7, 8, 10, 12]), max_length=10, zone=4)
    np.testing.assert_allclose(got, [0, 0, -0.25, -0.5, -1, -1])


def test_overlong_penalty_can_be_off():
    np.testing.assert_array_equal(overlong_penalty(np.array([1, 10]), max_length=10, zone=0), [0, 0])


def test_overlong_zone_must_fit():
    with pytest.raises(ValueError, match="11 tokens, expected 0 to the completion length 10"):
        overlong_penalty(np.array([1]), max_length=10, zone=11)


def test_informative_groups():
    rewards = np.array([[0.5, 0.5, 0.5], [0.5, 0.6, 0.7], [0.1, 0.9, np.nan], [0.1, np.nan, np.nan]], np.float32)
    ok = ~np.isnan(rewards)
    np.testing.assert_array_equal(informative_groups(rewards, ok, 0.05), [False, True, True, False])
    # group 1 has a sample std of exactly 0.1 up to rounding, group 2 of 0.57
    np.testing.assert_array_equal(informative_groups(rewards, ok, 0.2), [False, False, True, False])


def test_threshold_zero_keeps_flat_groups_but_not_single_samples():
    rewards = np.array([[0.5, 0.5], [0.5, np.nan]], np.float32)
    np.testing.assert_array_equal(informative_groups(rewards, ~np.isnan(rewards), 0.0), [True, False])


def test_fill_slots_takes_candidates_in_order():
    keep = np.array([True, False, False, True, False])
    source, filled = fill_slots(keep, np.array([False, True, False, True]))
    np.testing.assert_array_equal(source, [-1, 1, 3, -1, -1])
    np.testing.assert_array_equal(filled, [True, True, True, True, False])


def test_fill_slots_leaves_surplus_candidates():
    source, filled = fill_slots(np.array([True, False]), np.array([True, True, True]))
    np.testing.assert_array_equal(source, [-1, 0])
    assert filled.all()


TOKENS = jnp.array([[7, 3, 8, 9], [7, 8, 5, 3], [5, 7, 7, 7], [7, 7, 7, 3], [7, 7, 7, 7]])


def test_any_of_several_end_tokens_ends_a_completion():
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    for ids in ((3, 5), [5, 3]):
        np.testing.assert_array_equal(completion_mask(TOKENS, ids), np.array(expected, bool))


def test_an_answer_that_ends_in_the_last_place_has_ended():
    mask = completion_mask(TOKENS, (3, 5))
    np.testing.assert_array_equal(ends_well(TOKENS, mask, (3, 5)), [True, True, True, True, False])
    np.testing.assert_array_equal(ends_well(TOKENS, mask, (5,)), [False, True, True, False, False])
    np.testing.assert_array_equal(ends_well(TOKENS, jnp.zeros_like(mask), (3, 5)), [False] * 5)
