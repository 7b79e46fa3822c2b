import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.rollout.sampling import (
    NEVER,
    SamplingConfig,
    Support,
    action_logps,
    entropy,
    penalise_repeats,
    sample,
    sample_keys,
    support_logps,
    truncate,
)
from tests.rollout import plain

# Probabilities 0.5, 0.25, 0.125, 0.125 of actions 2, 0, 3, 1.
PROBABILITIES = np.array([0.25, 0.125, 0.5, 0.125], np.float32)
LOGITS = jnp.log(jnp.asarray(PROBABILITIES))[None, :] + 3.0


jitted_sample = jax.jit(sample, static_argnames="config")


def draws(config, count, logits=LOGITS):
    """Empirical probabilities of `count` draws, each under its own sample id."""
    keys = sample_keys(jax.random.key(1), jnp.arange(count), 0)
    drawn = jitted_sample(keys, jnp.broadcast_to(logits, (count, logits.shape[-1])), config)
    return np.bincount(np.asarray(drawn.action), minlength=logits.shape[-1]) / count, drawn


def test_top_k_by_hand():
    support = truncate(LOGITS, SamplingConfig(top_k=2))
    np.testing.assert_array_equal(support.indices, [[2, 0]])
    np.testing.assert_allclose(np.exp(support_logps(LOGITS, support)), [[2 / 3, 1 / 3]], rtol=1e-5)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    """0.5 + 0.25 reaches 0.7; 0.4 is reached by the likeliest alone."""
    for top_p, kept in ((0.7, [True, True, False, False]), (0.4, [True, False, False, False])):
        np.testing.assert_array_equal(truncate(LOGITS, SamplingConfig(top_p=top_p)).kept, [kept])


@pytest.mark.parametrize(
    ("weights", "top_p", "kept"),
    [
        # 1/2, 1/4, 1/8, 1/8: an action before which exactly top_p lies is cut
        ((0.5, 0.25, 0.125, 0.125), 0.5, 1),
        ((0.5, 0.25, 0.125, 0.125), 0.75, 2),
        ((0.5, 0.25, 0.125, 0.125), 0.875, 3),
        # and one before which the least less lies stays
        ((0.5, 0.25, 0.125, 0.125), float(np.nextafter(np.float32(0.5), np.float32(1))), 2),
        ((0.5, 0.25, 0.125, 0.125), float(np.nextafter(np.float32(0.75), np.float32(1))), 3),
        # four times 1/4, whose logarithms need no rounding
        ((1.0, 1.0, 1.0, 1.0), 0.25, 1),
        ((1.0, 1.0, 1.0, 1.0), 0.5, 2),
        ((1.0, 1.0, 1.0, 1.0), 0.75, 3),
    ],
)
def test_top_p_that_is_reached_exactly_needs_no_further_action(weights, top_p, kept):
    """The smallest set that reaches top_p: transformers' `TopPLogitsWarper` removes where 1 - before <= 1 - top_p."""
    logits = jnp.log(jnp.array([weights], jnp.float32))
    found = truncate(logits, SamplingConfig(top_p=top_p)).kept
    assert found.tolist() == [[i < kept for i in range(4)]]


def test_top_p_comes_after_top_k_and_temperature():
    """Over the top two the likeliest holds 2/3 at temperature 1 but 4/5 at 0.5, which alone reaches 0.7."""
    assert truncate(LOGITS, SamplingConfig(top_k=2, top_p=0.7)).kept.sum() == 2
    assert truncate(LOGITS, SamplingConfig(top_k=2, top_p=0.7, temperature=0.5)).kept.sum() == 1


def test_top_k_larger_than_the_number_of_actions():
    assert truncate(LOGITS, SamplingConfig(top_k=64)).indices.shape == (1, 4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SamplingConfig(), PROBABILITIES),
        (SamplingConfig(top_k=2), [1 / 3, 0, 2 / 3, 0]),
        (SamplingConfig(temperature=0.5), PROBABILITIES**2 / (PROBABILITIES**2).sum()),
        (SamplingConfig(top_p=0.4), [0, 0, 1, 0]),
        (SamplingConfig(temperature=0.0), [0, 0, 1, 0]),
    ],
)
def test_draws_follow_the_configured_distribution(config, expected):
    """20,000 draws: the standard error is at most 0.0036."""
    frequencies, _ = draws(config, 20_000)
    np.testing.assert_allclose(frequencies, expected, atol=0.015)


def test_recorded_log_probabilities():
    _, drawn = draws(SamplingConfig(top_k=2), 64)
    expected = np.where(np.asarray(drawn.action) == 2, np.log(2 / 3), np.log(1 / 3))
    np.testing.assert_allclose(drawn.logp, expected, rtol=1e-5)
    np.testing.assert_allclose(drawn.logp_gap, np.full(64, -np.log(0.75)), rtol=1e-4)


def test_official_log_probabilities_are_over_all_actions():
    frequencies, drawn = draws(SamplingConfig(top_k=2).official(), 64)
    assert frequencies[[1, 3]].sum() == 0
    np.testing.assert_allclose(drawn.logp, np.log(PROBABILITIES[np.asarray(drawn.action)]), rtol=1e-5)
    np.testing.assert_allclose(drawn.logp_gap, np.full(64, -np.log(0.75)), rtol=1e-4)
    assert drawn.support is None


def test_other_policies_are_renormalised_over_the_stored_set():
    """pi_ref ranks other actions first, but is scored over the behaviour policy's {2, 0}: 0.1 and 0.3."""
    support = truncate(LOGITS, SamplingConfig(top_k=2))
    reference = jnp.log(jnp.array([[0.3, 0.4, 0.1, 0.2]]))
    for action, expected in ((2, 0.25), (0, 0.75)):
        got = action_logps(reference, jnp.array([action], jnp.int32), support)
        np.testing.assert_allclose(np.exp(got), [expected], rtol=1e-5)
    assert float(action_logps(reference, jnp.array([1], jnp.int32), support)[0]) == np.float32(NEVER)


def test_log_probabilities_without_support_are_the_softmax():
    got = action_logps(LOGITS, jnp.array([1], jnp.int32), temperature=0.5)
    np.testing.assert_allclose(np.exp(got), [0.125**2 / (PROBABILITIES**2).sum()], rtol=1e-5)


def test_gradient_is_finite_and_stays_in_the_support():
    support = Support(indices=jnp.array([[2, 0, 3]], jnp.int32), kept=jnp.array([[True, True, False]]))

    def total(logits):
        return action_logps(logits, jnp.array([2], jnp.int32), support).sum() + entropy(logits, support).sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(LOGITS))
    assert np.isfinite(gradient).all()
    assert gradient[0, [1, 3]].tolist() == [0, 0]
    assert gradient[0, 2] > 0


def test_entropy_by_hand():
    """Over all four actions 1.75 bits; over {2, 0} that of (2/3, 1/3)."""
    np.testing.assert_allclose(entropy(LOGITS), [1.75 * np.log(2)], rtol=1e-5)
    support = truncate(LOGITS, SamplingConfig(top_k=2))
    np.testing.assert_allclose(entropy(LOGITS, support), [np.log(3) - 2 / 3 * np.log(2)], rtol=1e-5)


def test_draws_do_not_depend_on_the_batch_layout():
    logits = jax.random.normal(jax.random.key(0), (12, 16))
    ids = jnp.arange(12)

    def actions(order, shape):
        keys = sample_keys(jax.random.key(7), ids[order].reshape(shape), 5)
        drawn = jitted_sample(keys, logits[order].reshape(*shape, 16), SamplingConfig(top_k=8))
        return np.asarray(drawn.action).reshape(-1)

    whole = actions(ids, (12,))
    reverse = ids[::-1]
    np.testing.assert_array_equal(actions(reverse, (3, 4)), whole[::-1])


def test_steps_and_samples_draw_differently():
    flat = jnp.zeros((64, 128))
    first = jitted_sample(sample_keys(jax.random.key(0), jnp.arange(64), 0), flat, SamplingConfig()).action
    second = jitted_sample(sample_keys(jax.random.key(0), jnp.arange(64), 1), flat, SamplingConfig()).action
    assert np.mean(np.asarray(first) == np.asarray(second)) < 0.1
    assert len(np.unique(first)) > 32


def test_repetition_penalty():
    logits = jnp.array([[2.0, -2.0, 2.0, -2.0]])
    seen = jnp.array([[True, True, False, False]])
    np.testing.assert_allclose(penalise_repeats(logits, seen, 2.0), [[1.0, -4.0, 2.0, -2.0]])


def test_repetition_penalty_equals_the_plain_one():
    rng = np.random.default_rng(1)
    logits, seen = rng.normal(size=(5, 16)).astype(np.float32), rng.random((5, 16)) < 0.4
    for penalty in (1.3, 0.7):
        expected = [plain.penalised(row, np.flatnonzero(said), penalty) for row, said in zip(logits, seen)]
        np.testing.assert_allclose(penalise_repeats(jnp.asarray(logits), jnp.asarray(seen), penalty), expected, 1e-6)


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.0),
        SamplingConfig(temperature=0.6),
        SamplingConfig(top_k=5),
        SamplingConfig(temperature=1.7, top_p=0.6),
        SamplingConfig(temperature=0.6, top_k=9, top_p=0.7),
        SamplingConfig(temperature=0.6, top_k=9, top_p=0.7).official(),
        SamplingConfig(temperature=0.0, top_k=3),
    ],
)
def test_samples_equal_those_of_plain_sampling_with_the_same_noise(config):
    count, actions = 40, 16
    logits = 2 * np.random.default_rng(0).normal(size=(count, actions)).astype(np.float32)
    key = jax.random.key(5)
    drawn = jitted_sample(sample_keys(key, jnp.arange(count), 3), jnp.asarray(logits), config)
    width = plain.width(config, actions)
    expected = [plain.draw(logits[i], config, plain.noise(key, i, 3, width)) for i in range(count)]
    assert drawn.action.tolist() == [draw.action for draw in expected]
    np.testing.assert_allclose(drawn.logp, [draw.logp for draw in expected], atol=1e-5)
    np.testing.assert_allclose(drawn.logp_gap, [draw.logp_gap for draw in expected], atol=1e-5)
    entropies = entropy(jnp.asarray(logits), drawn.support, config.scale)
    np.testing.assert_allclose(entropies, [draw.entropy for draw in expected], atol=1e-5)


def test_very_low_temperature_is_greedy_without_nan():
    frequencies, drawn = draws(SamplingConfig(temperature=1e-6), 32)
    assert frequencies[2] == 1
    assert np.isfinite(np.asarray(drawn.logp)).all()


@pytest.mark.parametrize(
    "change", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"repetition_penalty": 0.0}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SamplingConfig(**change)
