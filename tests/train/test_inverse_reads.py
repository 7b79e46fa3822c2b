"""Inverse dynamics that reads each position's token beside its state (`LatentConfig.inverse_reads`)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.formats.agent_folder import read_manifest, save_checkpoint
from lam_jax.formats.load_latent import save_released
from lam_jax.nn.weight import path_name
from lam_jax.train.method import METHODS
from lam_jax.train.stages import inverse_loss, joint_loss
from lam_jax.train.stages.inverse_pass import inverse_logits
from tests import tiny
from tests.tiny import Row, make_batch, words
from tests.train import plain_stages
from tests.train.test_stages import MIXED

BATCH = make_batch([Row(words(6), ((1, 4, 4),), 3), Row(words(4, 1), ((1, 2, 2),), 2, seed=1)], 12)


def reading_tokens():
    agent = tiny.agent()
    config = dataclasses.replace(agent.latent.config, inverse_reads="tokens")
    return agent.replace(latent=agent.latent.replace(config=config))


def with_tokens(agent, x, batch):
    """x + embedding * |x| / |embedding|, the factor a constant."""
    said = np.asarray(agent.backbone.embedding)[np.asarray(batch.tokens)]
    factor = np.linalg.norm(np.asarray(x), axis=-1, keepdims=True) / np.linalg.norm(said, axis=-1, keepdims=True)
    return x + said * factor


def test_the_embedding_is_added_at_the_states_size():
    agent = reading_tokens()
    x = 3.0 * agent.backbone.states(BATCH)
    expected = plain_stages.inverse_logits(agent, with_tokens(agent, x, BATCH), BATCH)
    real = np.asarray(BATCH.mask)
    np.testing.assert_allclose(inverse_logits(agent, x, BATCH)[real], expected[real], rtol=1e-4, atol=1e-4)
    states_alone = plain_stages.inverse_logits(agent, x, BATCH)
    np.testing.assert_allclose(inverse_logits(tiny.agent(), x, BATCH)[real], states_alone[real], rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(expected - states_alone)[real]).max() > 0.1


def test_gradients_reach_the_states_and_never_the_embedding():
    agent = reading_tokens()
    x = agent.backbone.states(BATCH)

    def loss(x, logits):
        return jnp.sum(jnp.sin(logits(agent, x, BATCH)) * BATCH.mask[..., None].astype(jnp.float32))

    found = jax.grad(loss)(x, inverse_logits)
    constant = with_tokens(agent, x, BATCH) - x
    expected = jax.grad(loss)(x, lambda agent, x, batch: plain_stages.inverse_logits(agent, x + constant, batch))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)

    def of_weights(agent):
        return jnp.sum(jnp.sin(inverse_logits(agent, x, BATCH)))

    moved = {path_name(p) for p, g in jax.tree_util.tree_leaves_with_path(jax.grad(of_weights)(agent)) if np.any(g)}
    assert moved
    assert all(name.startswith("latent.inverse") for name in moved)


@pytest.mark.parametrize(("of_stage", "batch"), [(inverse_loss, BATCH), (joint_loss, MIXED)], ids=["inverse", "joint"])
def test_stages_take_it(of_stage, batch):
    losses = [of_stage(agent, batch, None, METHODS["default"])[0] for agent in (tiny.agent(), reading_tokens())]
    assert np.isfinite(losses).all()
    assert abs(losses[0] - losses[1]) > 1e-3


def test_a_checkpoint_remembers_it_and_the_released_form_is_refused(tmp_path):
    agent = reading_tokens()
    save_checkpoint(tmp_path / "own", agent.backbone, agent.latent)
    assert read_manifest(tmp_path / "own").latent == agent.latent.config
    with pytest.raises(ValueError, match=r"reads states; this one was trained with .* 'tokens'"):
        save_released(tmp_path / "released.npz", agent.backbone, agent.latent)
    assert not (tmp_path / "released.npz").exists()
