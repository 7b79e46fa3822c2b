"""Latent actions with a bias: forced codes are always taken, forbidden ones never, a bias of 0 changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.agent import Reading
from lam_jax.rollout.actions import LatentActions
from lam_jax.rollout.biased import NEVER, BiasedActions, forced
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import jitted, run_rollout
from lam_jax.rollout.sampling import SamplingConfig
from tests import tiny
from tests.tiny import Row, make_batch, words

pytestmark = pytest.mark.usefixtures("quick_compilation")
CODES, LENGTH = 8, 6


def test_forced_forbidden_and_none():
    actions = LatentActions(tiny.agent(), Reading())
    prompts = make_batch([Row(words(5), ((1, 2, 2),)), Row(words(4, 1))], 8, left=True)
    ids = np.arange(2 * CODES, dtype=np.int32).reshape(2, CODES)
    config = RolloutConfig(samples=CODES, length=LENGTH, sampling=SamplingConfig(1.0), stop=False)

    def roll(bias):
        space = BiasedActions(actions, jnp.asarray(bias, jnp.float32))
        return jax.device_get(run_rollout(space, prompts, ids, jax.random.key(0), config))

    own = roll(forced(np.arange(CODES), CODES))
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
