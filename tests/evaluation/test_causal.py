"""The causal test and the policy's codes on held-out rows, against the same figures in NumPy (method.md section 6)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.evaluation.codes import probe_codes
from lam_jax.latent.agent import Reading
from tests import tiny
from tests.tiny import Row, make_batch, words

LENGTH = 12
# Rows of unequal lengths: in each batch nearly half of the positions is padding.
PAIRED = make_batch([Row(words(6), ((1, 4, 4),), 3), Row(words(3, 1), ((1, 2, 2),), 2, seed=1)], LENGTH)
TEXT = make_batch([Row(words(9, 2), response=4), Row(words(4, 3), response=2)], LENGTH, left=True)
ANSWERS = PAIRED.replace(valid=PAIRED.valid & PAIRED.response)
SETS = {"image-text": [PAIRED], "text-only": [TEXT], "answers": [ANSWERS], "two batches": [PAIRED, TEXT]}


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def kl(p, q):
    return np.sum(p * (np.log(p) - np.log(q)), axis=-1)


def next_token(agent, x, action, readout):
    """The world model's distribution over next tokens at every position."""
    layers, scale = float64(agent.latent.world.blocks), np.asarray(agent.backbone.norm.scale)
    code, start, block = np.asarray(agent.latent.codebook, np.float64)[action], x, x
    for w_1, w_2, w_o in zip(layers.gate.kernel, layers.up.kernel, layers.down.kernel):
        both = np.concatenate([x, code], axis=-1)
        gate = both @ w_1
        block = (gate / (1 + np.exp(-gate)) * (both @ w_2)) @ w_o
        x = x + block

    def norm(y):
        return y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + agent.backbone.norm.epsilon) * scale

    out = {"merged": norm(x), "delta": norm(x) - start, "block": norm(block)}[readout]
    return softmax(out @ np.asarray(agent.backbone.embedding, np.float64).T)


@jax.jit
def networks(agent, batch):
    """Input of the merge, and the logits of policy and inverse dynamics."""
    e = agent.backbone.states(batch)
    x = jnp.where(batch.has_image[:, None, None], e, agent.latent.projector.mean(e))
    rotary = agent.backbone.rotary(batch.positions)
    return x, agent.latent.policy(x, rotary, batch.mask), agent.latent.inverse(x, rotary, batch.mask)


def figures(agent, batch, key, readout):
    """Per position: chosen code, inferred code, KL(chosen || random) and KL(random || chosen); and what counts."""
    x, policy, inverse = (np.asarray(y, np.float64) for y in networks(agent, batch))
    chosen, inferred = policy.argmax(-1), inverse.argmax(-1)
    inferred = np.concatenate([inferred[:, 1:], inferred[:, -1:]], axis=1)
    random = np.asarray(jax.random.randint(key, chosen.shape, 0, tiny.LATENT.codes))
    p, q = (next_token(agent, x, action, readout) for action in (chosen, random))
    return chosen, inferred, kl(p, q), kl(q, p), np.asarray(batch.valid)


@pytest.mark.parametrize(("rows", "readout"), [*((rows, "merged") for rows in SETS), ("answers", "block")])
def test_random_action_kl(rows, readout, key):
    """KL of the next token under the chosen code from that under a random one, over the positions that count."""
    batches, agent = SETS[rows], tiny.agent()
    found = probe_codes(agent, batches, key, Reading(readout))
    parts = [figures(agent, batch, jax.random.fold_in(key, i), readout) for i, batch in enumerate(batches)]
    expected = np.mean([there[valid].mean() for _, _, there, _, valid in parts])
    reversed_ = np.mean([back[valid].mean() for _, _, _, back, valid in parts])
    everywhere = np.mean([there.mean() for _, _, there, _, _ in parts])
    assert found["random_action_kl"] == pytest.approx(expected, rel=1e-4)
    # The rows tell a KL from its reverse and what counts from padding.
    assert expected != pytest.approx(reversed_, rel=1e-3)
    assert expected != pytest.approx(everywhere, rel=1e-2)


@pytest.mark.parametrize("rows", SETS)
def test_policy_and_inverse_model_agree_as_often_as_counted(rows, key):
    batches, agent = SETS[rows], tiny.agent()
    found = probe_codes(agent, batches, key, Reading())
    parts = [figures(agent, batch, jax.random.fold_in(key, i), "merged") for i, batch in enumerate(batches)]
    accuracy = np.mean([(chosen == inferred)[valid].mean() for chosen, inferred, _, _, valid in parts])
    used = np.mean([len(set(chosen[valid])) / tiny.LATENT.codes for chosen, _, _, _, valid in parts])
    assert found["cloning_accuracy"] == pytest.approx(accuracy, rel=1e-6)
    assert found["policy_used_share"] == pytest.approx(used, rel=1e-6)


def test_codes_that_the_world_model_does_not_read_move_nothing(key):
    agent = tiny.agent()
    world = agent.latent.world
    deaf = world.replace(blocks=jax.tree.map(jnp.zeros_like, world.blocks))
    agent = dataclasses.replace(agent, latent=agent.latent.replace(world=deaf))
    assert probe_codes(agent, [PAIRED], key, Reading())["random_action_kl"] == pytest.approx(0, abs=1e-6)


def test_one_position_alone_is_the_figure(key):
    """Whatever the other positions hold."""
    agent = tiny.agent()
    for row, position in ((0, 8), (1, 5)):
        only = PAIRED.replace(valid=jnp.zeros_like(PAIRED.valid).at[row, position].set(True))
        _, _, there, _, _ = figures(agent, PAIRED, jax.random.fold_in(key, 0), "merged")
        found = probe_codes(agent, [only], key, Reading())["random_action_kl"]
        assert found == pytest.approx(there[row, position], rel=1e-4, abs=1e-6)
