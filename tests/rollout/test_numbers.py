"""Logits that are NaN are named with their rows; no largest of them stands as an answer."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.errors import NonFiniteError
from lam_jax.latent.agent import Reading
from lam_jax.parallel import ROLLOUT, make_mesh, shardings
from lam_jax.rollout.actions import LatentActions, TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import require_numbers, run_rollout
from lam_jax.rollout.sampling import SamplingConfig
from tests import tiny
from tests.tiny import Row, make_batch, words

ROWS = ["row 8", "row 9"]
GREEDY, CUT = SamplingConfig(temperature=0.0), SamplingConfig(top_k=4, top_p=0.9)


def roll(agent, space, sampling=GREEDY):
    actions = LatentActions(agent, Reading()) if space == "latent" else TokenActions(agent.backbone)
    prompts = make_batch([Row(words(5)), Row(words(9, seed=1))], 12, left=True)
    config = RolloutConfig(samples=2, length=3, segment=3, sampling=sampling, stop=False)
    return run_rollout(actions, prompts, jnp.arange(4, dtype=jnp.int32).reshape(2, 2), jax.random.key(3), config)


def spoilt(part: str):
    """An agent with one NaN: everywhere it is looked at, or in the embedding of a word of the second row alone."""
    agent = tiny.agent()
    table, config = agent.backbone.embedding, tiny.CONFIG
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied=False))
    apart = agent.backbone.replace(config=config, lm_head=table)
    if part == "word":
        return agent.replace(backbone=apart.replace(embedding=table.at[words(9, seed=1)[0], 0].set(jnp.nan)))
    if part == "head":
        return agent.replace(backbone=apart.replace(lm_head=table.at[11, 0].set(jnp.nan)))
    return agent.replace(latent=agent.latent.replace(codebook=agent.latent.codebook * jnp.nan))


@pytest.mark.parametrize("sampling", [GREEDY, CUT], ids=["greedy", "cut"])
@pytest.mark.parametrize(("space", "part"), [("token", "head"), ("latent", "head"), ("latent", "codebook")])
def test_a_nan_that_all_answers_meet_is_named_with_all_rows(space, part, sampling):
    out = roll(spoilt(part), space, sampling)
    with pytest.raises(NonFiniteError, match=r"answers to row 8, row 9 are NaN.*float32"):
        require_numbers(out, ROWS)


def test_of_a_row_that_is_sound_nothing_is_said():
    out = roll(spoilt("word"), "token")
    assert np.isfinite(np.asarray(out.logps)[0]).all()
    with pytest.raises(NonFiniteError, match=re.escape("The logits of answers to row 9 are NaN")):
        require_numbers(out, ROWS)
    require_numbers(out, ROWS[:1])  # a row that fills up the mesh does not count


@pytest.mark.parametrize("space", ["token", "latent"])
def test_sound_weights_pass(space):
    require_numbers(roll(tiny.agent(), space), ROWS)


@pytest.mark.parametrize("space", ["token", "latent"])
def test_shards_of_the_vocabulary_hide_nothing(space):
    agent = spoilt("head")
    placed = jax.device_put(agent, shardings(agent.specs, make_mesh((1, 1, 2)), ROLLOUT))
    with pytest.raises(NonFiniteError, match="row 8, row 9"):
        require_numbers(roll(placed, space), ROWS)
