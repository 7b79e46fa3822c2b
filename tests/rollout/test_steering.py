"""Steered logits, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.rollout.sampling import NEVER
from lam_jax.rollout.steering import FREE, steered

LOGITS = np.array([[0.5, -1.0, 2.0], [0.0, 0.25, -3.0]], np.float32)
BIAS = np.array([1.0, 0.0, NEVER], np.float32)
PLAN = np.array([FREE, 1, FREE, 2], np.int32)


@pytest.mark.parametrize("step", [0, 2, 4, 9])
def test_the_bias_counts_where_the_plan_leaves_a_choice(step):
    found = _steered(step)
    np.testing.assert_array_equal(found[:, :2], LOGITS[:, :2] + np.array([1.0, 0.0], np.float32))
    assert np.all(found[:, 2] <= NEVER / 2)


@pytest.mark.parametrize(("step", "action"), [(1, 1), (3, 2)])
def test_a_planned_action_is_the_only_one(step, action):
    expected = np.full((2, 3), NEVER, np.float32)
    expected[:, action] = 0
    np.testing.assert_array_equal(_steered(step), expected)


def _steered(step: int) -> np.ndarray:
    return np.asarray(jax.jit(steered)(LOGITS, BIAS, PLAN, jnp.int32(step)))
