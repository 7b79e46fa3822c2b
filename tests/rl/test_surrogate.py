"""Losses against numbers worked out by hand: two rows, the second fully masked, on-policy or with known ratios."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.rl import ALGORITHMS, Algorithm, count_batch, loss_denominator, policy_loss
from lam_jax.rl.surrogate import k3_divergence

MAX_LENGTH = 5
PLAIN = Algorithm("plain", beta=0.0)
# Ratios 2, 1, 0.5 in row 0; row 1 is masked and holds values that must not matter.
RATIOS = np.array([[2.0, 1.0, 0.5], [np.inf, np.nan, 3.0]], np.float32)
OLD = jnp.array([[-1.0, -2.0, -3.0], [0.0, 0.0, 0.0]], jnp.float32)
LOGPS = OLD + jnp.log(jnp.asarray(RATIOS))
MASK = jnp.array([[True, True, True], [False, False, False]])
ADVANTAGES = jnp.array([1.0, -4.0], jnp.float32)
ONE = jnp.float32(1.0)


def loss_of(algorithm, logps=LOGPS, old=OLD, ref=None, advantages=ADVANTAGES, mask=MASK, denominator=ONE, **extra):
    return policy_loss(algorithm, logps, old, ref, advantages, mask, denominator, **extra)


def test_clipping_by_hand():
    """A = 1: min(2, 1.2) + min(1, 1) + min(0.5, 0.8) = 1.2 + 1 + 0.5 = 2.7, over three tokens of one sequence."""
    loss, metrics = loss_of(PLAIN)
    np.testing.assert_allclose(loss, -2.7 / 3, rtol=1e-6)
    means = metrics.means()
    np.testing.assert_allclose(means["clip_fraction_high"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(means["clip_fraction_low"], 0)
    np.testing.assert_allclose(means["ratio_mean"], 3.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(means["ratio_max"], 2, rtol=1e-6)


def test_negative_advantage_clips_below():
    """A = -1: max(2, 1.2) + 1 + max(0.5, 0.8) = 3.8; the low side is the clipped one."""
    loss, metrics = loss_of(PLAIN, advantages=-ADVANTAGES)
    np.testing.assert_allclose(loss, 3.8 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics.means()["clip_fraction_low"], 1 / 3, rtol=1e-6)


def test_asymmetric_clipping():
    """clip_high 0.28: 1.28 + 1 + 0.5."""
    loss, _ = loss_of(dataclasses.replace(PLAIN, clip_high=0.28))
    np.testing.assert_allclose(loss, -2.78 / 3, rtol=1e-6)


def test_two_sided_clipping_bounds_negative_advantages():
    """A = -1 and delta 1.5: 1.5 + 1 + 0.8 instead of 2 + 1 + 0.8."""
    loss, _ = loss_of(dataclasses.replace(PLAIN, clip_delta=1.5), advantages=-ADVANTAGES)
    np.testing.assert_allclose(loss, 3.3 / 3, rtol=1e-6)


def test_sequence_importance_is_the_geometric_mean():
    """The ratios 2 * 1 * 0.5 multiply to 1, so every token has ratio 1."""
    loss, metrics = loss_of(dataclasses.replace(PLAIN, importance="sequence"))
    np.testing.assert_allclose(loss, -1.0, rtol=1e-6)
    np.testing.assert_allclose(metrics.means()["ratio_max"], 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "fractions"),
    [
        (1.00035, 1.0, -1.00035, (0, 0)),  # within the upper bound, though not within 3e-4
        (1.00045, 1.0, -1.0004, (0, 1)),
        (0.99975, -1.0, 0.99975, (0, 0)),
        (0.99965, -1.0, 0.9997, (1, 0)),  # below the lower bound, though within 4e-4
    ],
)
def test_gspo_clips_the_sequence_from_3e_4_below_to_4e_4_above(ratio, advantage, loss, fractions):
    """Token ratios r**3, r, 1 / r, of geometric mean r; a clipped sequence has no gradient, another -A r / 3."""
    algorithm = dataclasses.replace(ALGORITHMS["gspo"], beta=0.0)
    exponents = jnp.array([[3.0, 1.0, -1.0], [0.0, 0.0, 0.0]], jnp.float32)
    logps = OLD + exponents * jnp.float32(math.log(ratio))
    advantages = jnp.array([advantage, 5.0], jnp.float32)

    def loss_at(x):
        return loss_of(algorithm, logps=x, advantages=advantages)

    (found, metrics), gradient = jax.value_and_grad(loss_at, has_aux=True)(logps)
    np.testing.assert_allclose(found, loss, atol=2e-6)
    means = metrics.means()
    assert (float(means["clip_fraction_low"]), float(means["clip_fraction_high"])) == fractions
    own = 0.0 if any(fractions) else -advantage * ratio / 3
    np.testing.assert_allclose(gradient, [[own] * 3, [0.0] * 3], atol=1e-5)


def test_cispo_by_hand():
    """-min(r, 1.2) * A * logp, the weight without gradient."""
    algorithm = dataclasses.replace(PLAIN, objective="cispo", normaliser="global_tokens")
    logps = np.asarray(LOGPS)[0]
    weights = np.array([1.2, 1.0, 0.5])
    (loss, _), gradient = jax.value_and_grad(lambda x: loss_of(algorithm, logps=x), has_aux=True)(LOGPS)
    np.testing.assert_allclose(loss, -(weights * logps).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, [-weights, np.zeros(3)], rtol=1e-6)


def test_k3_by_hand():
    """d = ln 2: k3 = 2 - ln 2 - 1; d = 0: 0; d = -ln 2: 0.5 + ln 2 - 1. Their sum is 0.5."""
    ref = LOGPS + jnp.array([[math.log(2), 0.0, -math.log(2)], [0.0, 0.0, 0.0]], jnp.float32)
    with_kl, metrics = loss_of(dataclasses.replace(PLAIN, beta=0.1), ref=ref)
    np.testing.assert_allclose(with_kl, -2.7 / 3 + 0.1 * 0.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics.means()["kl"], 0.5 / 3, rtol=1e-5)


def test_kl_is_reported_but_not_added_at_beta_zero():
    loss, metrics = loss_of(PLAIN, ref=LOGPS + 1.0)
    np.testing.assert_allclose(loss, -2.7 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics.means()["kl"], math.e - 2, rtol=1e-5)


def test_missing_reference_is_an_error():
    with pytest.raises(ValueError, match="needs ref_logps"):
        loss_of(ALGORITHMS["grpo"])


def test_without_old_logps_the_gradient_is_reinforce():
    """On-policy r = 1, so d loss / d logp = -A / (tokens of the sequence), nothing clipped."""
    loss, gradient = jax.value_and_grad(lambda x: loss_of(PLAIN, logps=x, old=None)[0])(LOGPS)
    np.testing.assert_allclose(loss, -1.0, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1 / 3] * 3, [0, 0, 0]], rtol=1e-6)


def test_masked_row_of_nan_and_inf_does_not_reach_the_gradient():
    algorithm = dataclasses.replace(PLAIN, beta=0.1)
    ref = jnp.where(MASK, LOGPS, jnp.nan)
    gradient = jax.grad(lambda x: loss_of(algorithm, logps=x, ref=ref)[0])(LOGPS)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1], np.zeros(3))


def test_all_rows_masked_gives_zero():
    none = jnp.zeros_like(MASK)
    for name in ("grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"):
        algorithm = ALGORITHMS[name]
        denominator = loss_denominator(algorithm.normaliser, count_batch(none), MAX_LENGTH)
        (loss, metrics), gradient = jax.value_and_grad(
            lambda x, a=algorithm, d=denominator: loss_of(a, logps=x, ref=LOGPS, mask=none, denominator=d),
            has_aux=True,
        )(LOGPS)
        assert float(loss) == 0.0
        assert not np.asarray(gradient).any()
        assert all(float(value) == 0.0 for value in metrics.means().values())


def test_zero_variance_group_gets_only_the_kl_gradient():
    """Advantages of 0 leave beta * k3; at pi = pi_ref that has no gradient either."""
    zero = jnp.zeros_like(ADVANTAGES)
    gradient = jax.grad(lambda x: loss_of(ALGORITHMS["grpo"], logps=x, ref=LOGPS, advantages=zero)[0])(LOGPS)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_entropy_is_averaged_over_active_tokens():
    entropies = jnp.array([[0.5, 1.0, 1.5], [9.0, 9.0, 9.0]], jnp.float32)
    _, metrics = loss_of(PLAIN, entropies=entropies)
    np.testing.assert_allclose(metrics.means()["entropy"], 1.0)


def k3_by_formula(d):
    return np.expm1(np.float64(d)) - d


@pytest.mark.parametrize("far", [10.5, 20.0, 90.0, 1e4, 1e30])
def test_k3_far_from_the_reference_is_bounded(far):
    """Value and slope stay what they are at d = 10."""
    value, slope = jax.value_and_grad(lambda x: k3_divergence(x, x * 0 + far - 3.0)[0, 0])(jnp.full((1, 1), -3.0))
    np.testing.assert_allclose(value, k3_by_formula(10.0), rtol=1e-6)
    np.testing.assert_allclose(slope, -np.expm1(10.0), rtol=1e-6)


def test_k3_below_the_reference_is_bounded():
    value, slope = jax.value_and_grad(lambda x: k3_divergence(x, x * 0 - 1e30)[0, 0])(jnp.zeros((1, 1)))
    assert (float(value), float(slope[0, 0])) == (99.0, 1.0)
    value = k3_divergence(jnp.zeros((1, 1)), jnp.full((1, 1), -20.0))
    np.testing.assert_allclose(value, 19.0, rtol=1e-6)


def test_k3_is_what_it_was_to_the_bit_where_policies_are_not_far_apart():
    ref = jnp.asarray(np.linspace(-30, 9.9, 4001, dtype=np.float32)[None])

    def plain(logps, ref_logps):
        difference = ref_logps - logps
        return jnp.expm1(difference) - difference

    zeros = jnp.zeros_like(ref)
    np.testing.assert_array_equal(k3_divergence(zeros, ref), plain(zeros, ref))
    ours, theirs = (jax.grad(lambda x, f=f: f(x, ref).sum())(zeros) for f in (k3_divergence, plain))
    np.testing.assert_array_equal(ours, theirs)
