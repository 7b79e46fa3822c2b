"""Codebook health against hand-computed numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.health import divergence, health, histogram


def logits(*rows):
    return jnp.log(jnp.array([rows]))


def test_two_codes_in_turn():
    """Positions take codes 0, 1 with certainty, a third is masked: everything that varies is information."""
    sure = 1 - 1e-7
    h = health(logits([sure, 1e-7, 1e-9], [1e-7, sure, 1e-9], [1e-9, 1e-9, sure]), jnp.array([[True, True, False]]))
    assert float(h.perplexity) == pytest.approx(2, rel=1e-4)
    assert float(h.used_share) == pytest.approx(2 / 3)
    assert float(h.dead_codes) == 1
    assert float(h.top_share) == 0.5
    assert float(h.conditional_entropy) == pytest.approx(0, abs=1e-4)
    assert float(h.mutual_information) == pytest.approx(np.log(2), rel=1e-4)
    assert h.usage.tolist() == [0.5, 0.5, 0.0]


def test_codes_that_say_nothing():
    """The same distribution (1/2, 1/4, 1/4) everywhere: no information, although the codebook looks diverse."""
    h = health(logits([0.5, 0.25, 0.25], [0.5, 0.25, 0.25]), jnp.array([[True, True]]))
    assert float(h.perplexity) == pytest.approx(2**1.5, rel=1e-5)
    assert float(h.mutual_information) == pytest.approx(0, abs=1e-6)
    assert float(h.conditional_entropy) == pytest.approx(1.5 * np.log(2), rel=1e-5)
    assert (float(h.top_share), float(h.dead_codes)) == (1, 2)


def test_scalars_leave_the_histogram_out():
    scalars = health(logits([0.5, 0.5]), jnp.array([[True]])).scalars("text_")
    assert "text_perplexity" in scalars
    assert "text_usage" not in scalars
    assert all(value.shape == () for value in scalars.values())


def test_histogram_of_a_batch_without_valid_positions_is_zero():
    assert histogram(jnp.array([[1, 2]]), jnp.zeros((1, 2), bool), 3).tolist() == [0, 0, 0]


def test_divergence_by_hand():
    """KL((1/2, 1/2) || (1/4, 3/4)), and 0 for equal distributions whatever their shift."""
    p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
    assert float(divergence(p, q)) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5)
    assert float(divergence(p, p + 3)) == pytest.approx(0, abs=1e-7)
