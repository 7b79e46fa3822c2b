"""Losses of stages 1 to 5 against hand-computed numbers and their plain formulas. B rows, L length, V vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.losses import (
    Mean,
    cloning,
    gaussian_nll,
    masked_mean,
    negative_entropy,
    next_token,
    target_mask,
    token_logps,
)
from lam_jax.nn.layout import Layout, laid_out_by

NO, YES = False, True


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_masked_mean_ignores_masked_values():
    mean = masked_mean(jnp.array([[1.0, jnp.nan, 3.0]]), jnp.array([[YES, NO, YES]]))
    assert (float(mean.value), float(mean.count)) == (2.0, 2.0)
    assert float(masked_mean(jnp.array([jnp.nan]), jnp.array([NO])).value) == 0


def test_totals_and_counts_add_up_to_a_global_mean():
    parts = [Mean(jnp.float32(6.0), jnp.float32(3.0)), Mean(jnp.float32(8.0), jnp.float32(1.0))]
    assert float((parts[0] + parts[1]).value) == 3.5


def test_gaussian_nll_by_hand():
    """Position 0: 4 * exp(-1) + 1 + 1 * exp(0) + 0; position 1 is masked."""
    args = [jnp.array([[x, [9.0, 9.0]]]) for x in ([3.0, 1.0], [1.0, 0.0], [1.0, 2.0])]
    nll = gaussian_nll(*args, jnp.array([[YES, NO]]))
    assert float(nll.value) == pytest.approx(4 * np.exp(-1) + 2, rel=1e-6)


def test_gaussian_nll_trains_no_target():
    mean, log_variance, target = normal(0, 3, 1, 2, 4)
    gradient = jax.grad(lambda t: gaussian_nll(mean, log_variance, t, jnp.ones((1, 2), bool)).value)(target)
    assert not gradient.any()


def test_cloning_by_hand():
    """Code probabilities (3/4, 1/4) with target 1, (1/4, 3/4) with target 1, and a masked position."""
    logits = jnp.log(jnp.array([[[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]]))
    loss, accuracy = cloning(logits, jnp.array([[1, 1, 0]]), jnp.array([[YES, YES, NO]]))
    assert float(loss.value) == pytest.approx((np.log(4) + np.log(4 / 3)) / 2, rel=1e-5)
    assert float(accuracy.value) == 0.5


def test_negative_entropy_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.5], [1e-9, 1.0]]]))
    value = negative_entropy(logits, jnp.array([[YES, NO]])).value
    assert float(value) == pytest.approx(-np.log(2), rel=1e-6)


# Left padding, image block, question, answer:   pad  vs  img  ve   q    a   eos
MASK = jnp.array([[NO, YES, YES, YES, YES, YES, YES]])
VALID = jnp.array([[NO, NO, NO, NO, YES, YES, YES]])
RESPONSE = jnp.array([[NO, NO, NO, NO, NO, YES, YES]])


def test_targets_are_valid_tokens_and_the_last_position_has_none():
    assert target_mask(VALID, MASK).tolist() == [[NO, NO, NO, YES, YES, YES, NO]]


def test_targets_in_the_response_include_the_one_of_the_last_prompt_position():
    assert target_mask(VALID, MASK, RESPONSE).tolist() == [[NO, NO, NO, NO, YES, YES, NO]]


def test_official_targets_include_the_token_after_the_padding():
    mask = jnp.array([[NO, NO, YES, YES]])
    assert target_mask(mask, mask).tolist() == [[NO, NO, YES, NO]]
    assert target_mask(mask, mask, after_padding=True).tolist() == [[NO, YES, YES, NO]]


V, WIDTH = 11, 6


def plain_logps(states, table, targets, temperature):
    logps = jax.nn.log_softmax(states @ table.T / temperature, axis=-1)
    chosen = jnp.take_along_axis(logps, targets[..., None], axis=-1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(logps) * logps, axis=-1)


@pytest.fixture
def two_positions_a_chunk():
    """Room for the float32 logits of two positions of six rows: seven positions need four chunks, one half empty."""
    with laid_out_by(Layout(logits_bytes=2 * 6 * V * 4)):
        yield


@pytest.mark.usefixtures("two_positions_a_chunk")
def test_chunked_log_probabilities_equal_the_plain_formula_with_gradients():
    """Over leading dimensions [2, 3] and a temperature; the entropy carries no gradient."""
    states, table = normal(0, 2, 3, 7, WIDTH), normal(1, V, WIDTH)
    targets = jnp.asarray(np.random.default_rng(2).integers(0, V, (2, 3, 7)))
    weight = normal(3, 2, 3, 7)

    def with_gradients(function):
        def total(states, table):
            logps, entropy = function(states, table)
            return jnp.sum(weight * logps), (logps, entropy)

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(states, table)

    (_, values), gradients = with_gradients(lambda s, t: token_logps(s, t, targets, 0.7, want_entropy=True))
    (_, expected), expected_gradients = with_gradients(lambda s, t: plain_logps(s, t, targets, 0.7))
    for got, want in zip((*values, *gradients), (*expected, *expected_gradients), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.usefixtures("two_positions_a_chunk")
def test_gradients_of_bfloat16_states_are_those_of_the_formula_in_float64():
    """Products in bfloat16, sums and the table's gradient in float32."""
    states = normal(0, 2, 3, 7, WIDTH).astype(jnp.bfloat16)
    table = normal(1, V, WIDTH).astype(jnp.bfloat16).astype(jnp.float32)  # numbers that both types hold
    targets = np.random.default_rng(2).integers(0, V, (2, 3, 7))
    weight = np.asarray(normal(3, 2, 3, 7))
    loss = lambda s, t: jnp.sum(weight * token_logps(s, t, jnp.asarray(targets), 0.7)[0])  # noqa: E731
    to_states, to_table = jax.jit(jax.grad(loss, (0, 1)))(states, table)
    s, t = np.asarray(states, np.float64), np.asarray(table, np.float64)
    logits = s @ t.T / 0.7
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    slope = weight[..., None] * (np.eye(V)[targets] - chances) / 0.7
    assert (to_states.dtype, to_table.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(np.asarray(to_states, np.float64), slope @ t, atol=0.05)
    np.testing.assert_allclose(to_table, np.einsum("abcv,abcd->vd", slope, s), atol=0.05)


@pytest.mark.usefixtures("two_positions_a_chunk")
def test_next_token_is_the_mean_cross_entropy_of_the_following_token():
    states, table = normal(4, 6, 7, WIDTH), normal(5, V, WIDTH)
    tokens = jnp.asarray(np.random.default_rng(6).integers(0, V, (6, 7)))
    keep = jnp.asarray(np.random.default_rng(7).random((6, 7)) < 0.5).at[:, -1].set(NO)
    logps, _ = plain_logps(states[:, :-1], table, tokens[:, 1:], 1.0)
    expected = -np.asarray(logps)[np.asarray(keep)[:, :-1]].mean()
    assert float(next_token(states, table, tokens, keep).value) == pytest.approx(expected, rel=1e-5)
