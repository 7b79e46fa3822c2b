"""What the codes reach along reference answers: figures by hand, and emissions against the same sums in NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.evaluation import reach
from lam_jax.evaluation.reach import Emissions, emissions
from lam_jax.latent.agent import Reading
from tests import tiny
from tests.evaluation.test_causal import LENGTH, PAIRED, TEXT, networks, next_token


def made(**changes) -> Emissions:
    """Three codes, four words, two positions of one row. Of the second position nothing depends on the code."""
    values = {
        "row": np.array([0, 0]),
        "target": np.array([1, 3]),
        "backbone_logp": np.log([0.25, 0.5]),
        "backbone_token": np.array([2, 3]),
        "policy": np.log([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]),
        "inferred": np.array([0, 2]),
        "logp": np.log([[0.5, 0.25, 0.125], [0.25, 0.25, 0.25]]),
        "token": np.array([[1, 2, 2], [0, 0, 0]]),
    }
    return Emissions(**values | changes)


def test_figures_by_hand():
    found = made().figures()
    two, third = math.log(2), 1 / 3
    mixture = 0.5 * 0.5 + 0.25 * 0.25 + 0.25 * 0.125
    expected = {
        "positions": 2,
        "backbone_logp": (math.log(0.25) + math.log(0.5)) / 2,
        "inferred_logp": (math.log(0.5) + math.log(0.25)) / 2,
        "policy_logp": (math.log(mixture) + math.log(0.25)) / 2,
        "gain_over_backbone": (two - two) / 2,
        "gain_over_policy": math.log(0.5 / mixture) / 2,
        "best_gain": (two - two) / 2,
        "distinct_tokens": (2 + 1) / 2,
        # Of three codes one emits word 1 and two emit word 2; the policy takes either half of the time.
        "emitted_entropy": -(third * math.log(third) + 2 * third * math.log(2 * third)) / 2,
        "policy_emitted_entropy": two / 2,
        "reached": 0.5,
        "inferred_reached": 0.5,
        "backbone_reached": 0.5,
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_code_that_is_never_inferred_counts_for_what_is_reached_and_for_the_best_gain():
    found = made(inferred=np.array([1, 1]), logp=np.log([[0.5, 0.25, 0.125], [0.25, 0.25, 0.75]])).figures()
    assert found["reached"] == 0.5
    assert found["inferred_reached"] == 0
    assert found["best_gain"] == pytest.approx((math.log(2) + math.log(1.5)) / 2)
    assert found["gain_over_backbone"] == pytest.approx((0 + math.log(0.5)) / 2)


def test_what_is_emitted_along_each_row():
    found = made(row=np.array([0, 2]))
    assert found.along(4) == [[1], [], [0], []]
    assert found.along(3, inferred=False) == [[2], [], [3]]


def test_no_position_is_an_error():
    empty = Emissions(*(value[:0] for value in vars(made()).values()))
    with pytest.raises(ValueError, match="No position has a response token"):
        empty.figures()


def plain(agent, batch, readout):
    """Targets, and of the backbone and each code the probabilities [.., V] at the positions that count, in NumPy."""
    x, policy, inverse = (np.asarray(y, np.float64) for y in networks(agent, batch))
    states = np.asarray(agent.backbone.states(batch), np.float64)
    logits = states @ np.asarray(agent.backbone.embedding, np.float64).T
    backbone = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    inferred = np.concatenate([inverse[:, 1:], inverse[:, -1:]], axis=1).argmax(-1)
    valid, mask, response = (np.asarray(y) for y in (batch.valid, batch.mask, batch.response))
    keep = np.zeros_like(mask)
    keep[:, :-1] = (valid & response)[:, 1:] & mask[:, :-1]
    coded = [next_token(agent, x, np.full(mask.shape, code), readout)[keep] for code in range(tiny.LATENT.codes)]
    tokens = np.asarray(batch.tokens)
    target = np.roll(tokens, -1, axis=1)[keep]
    return target, backbone[keep], np.stack(coded), policy[keep], inferred[keep], np.nonzero(keep)[0]


@pytest.mark.parametrize(("readout", "part"), [("merged", 256), ("merged", 3), ("block", 256)])
def test_emissions_are_those_of_every_code(readout, part, monkeypatch):
    """Also in parts that do not divide the positions."""
    monkeypatch.setattr(reach, "PART", part)
    agent, batches = tiny.agent(), [PAIRED, TEXT]
    found = emissions(agent, batches, Reading(readout))
    parts = [plain(agent, batch, readout) for batch in batches]
    target, backbone, policy, inferred = (np.concatenate([p[i] for p in parts]) for i in (0, 1, 3, 4))
    coded = np.concatenate([p[2] for p in parts], axis=1)
    rows = np.concatenate([parts[0][5], parts[1][5] + 2])
    index = np.arange(len(target))
    np.testing.assert_array_equal(found.row, rows)
    np.testing.assert_array_equal(found.target, target)
    np.testing.assert_array_equal(found.inferred, inferred)
    np.testing.assert_array_equal(found.token, coded.argmax(-1).T)
    np.testing.assert_array_equal(found.backbone_token, backbone.argmax(-1))
    np.testing.assert_allclose(found.backbone_logp, np.log(backbone[index, target]), rtol=1e-4)
    np.testing.assert_allclose(found.logp, np.log(coded[:, index, target]).T, rtol=1e-4)
    np.testing.assert_allclose(np.exp(found.policy).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.policy - found.policy[:, :1], policy - policy[:, :1], atol=1e-4)


def test_codes_that_the_world_model_does_not_read_reach_one_token():
    agent = tiny.agent()
    world = agent.latent.world
    deaf = world.replace(blocks=jax.tree.map(jnp.zeros_like, world.blocks))
    agent = dataclasses.replace(agent, latent=agent.latent.replace(world=deaf))
    found = emissions(agent, [PAIRED], Reading()).figures()
    assert found["distinct_tokens"] == 1
    assert (found["emitted_entropy"], found["gain_over_policy"]) == pytest.approx((0, 0), abs=1e-6)
    assert found["policy_emitted_entropy"] == pytest.approx(0, abs=1e-6)


def test_rows_without_a_response_have_no_position():
    silent = PAIRED.replace(response=jnp.zeros((2, LENGTH), bool))
    alone = emissions(tiny.agent(), [PAIRED], Reading())
    both = emissions(tiny.agent(), [silent, PAIRED], Reading())
    assert both.figures() == alone.figures()
    np.testing.assert_array_equal(both.row, alone.row + 2)
    assert len(emissions(tiny.agent(), [silent], Reading()).target) == 0
