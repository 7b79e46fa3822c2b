"""Steered actions: planned by hand; forced codes are always taken, forbidden ones never, no bias changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.agent import Reading
from lam_jax.rollout.actions import Act, LatentActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import jitted, run_rollout
from lam_jax.rollout.sampling import NEVER, SamplingConfig
from lam_jax.rollout.steering import FREE, SteeredActions, forcing, planned_logits
from tests import tiny
from tests.tiny import Row, make_batch, words

CODES, LENGTH = 8, 6
LOGITS = np.array([[0.5, -1.0, 2.0], [0.0, 0.25, -3.0]], np.float32)
PLAN = np.array([FREE, 1, FREE, 2], np.int32)


@pytest.mark.parametrize("step", [0, 2, 4, 9])
def test_where_the_plan_leaves_a_choice_logits_stay(step):
    np.testing.assert_array_equal(_planned(step), LOGITS)


@pytest.mark.parametrize(("step", "action"), [(1, 1), (3, 2)])
def test_a_planned_action_is_taken_even_if_it_is_forbidden(step, action):
    found = _planned(step) + np.where(np.arange(3) == action, NEVER, 0).astype(np.float32)
    np.testing.assert_array_equal(jax.nn.softmax(found), np.eye(3, dtype=np.float32)[[action, action]])


def _planned(step: int) -> np.ndarray:
    return np.asarray(jax.jit(planned_logits)(LOGITS, PLAN, jnp.int32(step)))


class Drawing(LatentActions):
    """Hands back what it was to draw from."""

    def act(self, keys, hidden, logits, has_image, sampling, penalise):
        return Act(logits, jnp.zeros(()), jnp.zeros(()))


@pytest.mark.parametrize("bias", [[[0.5, -2.0, 0.0]], [[0.5, -2.0, 0.0], [NEVER, 0.0, 3.0]]])
def test_the_bias_is_added_before_an_action_is_drawn(bias):
    """Of one sample, or of each its own."""
    space = SteeredActions(Drawing(tiny.agent(), Reading()), jnp.asarray(bias, jnp.float32))
    keys = jax.random.split(jax.random.key(0), (1, 2))
    hidden, shown = jnp.zeros((1, 2, 32)), jnp.zeros(1, bool)
    found = space.act(keys, hidden, jnp.asarray(LOGITS[None]), shown, SamplingConfig(), lambda x: x)
    np.testing.assert_allclose(np.asarray(found.drawn)[0], LOGITS + np.array(bias, np.float32))


def test_forced_forbidden_and_none():
    actions = LatentActions(tiny.agent(), Reading())
    prompts = make_batch([Row(words(5), ((1, 2, 2),)), Row(words(4, 1))], 8, left=True)
    ids = np.arange(2 * CODES, dtype=np.int32).reshape(2, CODES)
    config = RolloutConfig(samples=CODES, length=LENGTH, sampling=SamplingConfig(1.0), stop=False)

    def roll(bias):
        space = SteeredActions(actions, jnp.asarray(bias, jnp.float32))
        return jax.device_get(run_rollout(space, prompts, ids, jax.random.key(0), config))

    own = roll(forcing(np.arange(CODES), CODES))
    assert (own.actions == np.arange(CODES)[None, :, None]).all()
    compiled = jitted._cache_size()
    never = np.zeros((CODES, CODES))
    never[:, 2] = NEVER
    assert not (roll(never).actions == 2).any()
    free = roll(np.zeros((CODES, CODES)))
    assert jitted._cache_size() == compiled
    plain = jax.device_get(run_rollout(actions, prompts, ids, jax.random.key(0), config))
    np.testing.assert_array_equal(free.actions, plain.actions)
    np.testing.assert_array_equal(free.tokens, plain.tokens)
    assert len(np.unique(plain.actions)) > 1
