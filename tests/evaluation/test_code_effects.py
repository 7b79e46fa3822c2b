"""What codes do to the next token and how they are read, against the same figures in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.data.collator import Collated
from lam_jax.data.cuts import Cuts
from lam_jax.data.schemas import Example
from lam_jax.evaluation import code_effects as module
from lam_jax.evaluation.code_effects import code_effects
from lam_jax.evaluation.code_reading import read_codes
from lam_jax.latent.agent import Reading
from tests import tiny
from tests.evaluation.test_causal import kl, networks, next_token
from tests.tiny import Row, make_batch, words

READING = Reading("merged")


def examples(count):
    chat = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})
    return [Example(f"row{i}", chat) for i in range(count)]


@pytest.mark.parametrize("chunk", [module.CHUNK, 3 * 4 * tiny.VOCAB])
def test_effects_are_those_of_numpy(monkeypatch, chunk):
    """Whole and in chunks of three positions, the last one filled up."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    agent = tiny.agent()
    x = np.random.default_rng(3).normal(size=(7, 32)).astype(np.float32)
    classes = np.array([0, 1, 0, 1, 1, 0, 1])
    found = code_effects(agent, x, classes, 3, READING, most=4)
    p = np.stack([next_token(agent, x.astype(np.float64), np.full(7, code), "merged") for code in range(8)])
    mean = p.mean(0)
    assert found.positions == [3, 4, 0, 7]
    np.testing.assert_allclose(found.kl, kl(p, mean[None]).mean(1), rtol=1e-3)
    tops = p.argmax(-1)
    np.testing.assert_allclose(found.moved, (tops != mean.argmax(-1)).mean(1))
    assert found.distinct == pytest.approx(np.mean([len(set(column)) for column in tops.T]))
    for code in (0, 5):
        change = (p[code] - mean)[classes == 1].mean(0)
        up, down = found.raised[code][1], found.lowered[code][1]
        assert [one["token"] for one in up] == np.argsort(-change)[:4].tolist()
        assert [one["token"] for one in down] == np.argsort(change)[:4].tolist()
        assert up[0]["p"] == pytest.approx(p[code][classes == 1].mean(0)[up[0]["token"]], rel=1e-4)
        assert up[0]["p"] - up[0]["mean"] == pytest.approx(change.max(), rel=1e-3)
        assert found.raised[code][2] == []


def test_effects_need_states():
    with pytest.raises(ValueError, match="found no states"):
        code_effects(tiny.agent(), np.zeros((0, 32), np.float32), np.zeros(0, int), 1, READING)


def test_read_codes_are_those_before_each_answer_token():
    agent, length = tiny.agent(), 12
    rows = [Row(words(6), ((1, 4, 4),), 3), Row(words(5, 1), response=2), Row(words(4, 2))]
    batch = make_batch(rows, length)
    host = jax.tree.map(np.asarray, batch)
    _, policy, inverse = networks(agent, batch)

    def collate(found, count):
        return Collated(host, tuple(found), Cuts())

    reads = read_codes(agent, examples(3), collate, READING, 3, states=4)
    assert [one.example.id for one in reads.rows] == ["row0", "row1"]  # the third has no answer
    for number, one in enumerate(reads.rows):
        stop = len(rows[number].tokens)
        at = np.arange(stop - rows[number].response, stop)
        assert one.places.tolist() == at.tolist()
        logits = np.asarray(inverse)[number, at]  # the action at t is read off the inverse model's output at t + 1
        assert one.inferred.tolist() == logits.argmax(-1).tolist()
        np.testing.assert_allclose(one.certainty, np.asarray(jax.nn.softmax(jnp.asarray(logits))).max(-1), rtol=1e-4)
        assert one.chosen.tolist() == np.asarray(policy)[number, at - 1].argmax(-1).tolist()
        assert one.inverse.positions == rows[number].response
    assert (reads.rows[0].blind is None, reads.rows[1].blind is None) == (False, True)
    assert len(reads.states) == len(reads.origins) == 4
    states = np.asarray(agent.backbone.states(batch))[0][reads.rows[0].places - 1]
    text = batch.without_images()
    guess = np.asarray(agent.latent.projector.mean(agent.backbone.states(text)))[0][reads.rows[0].places - 1]
    error = ((guess - states) ** 2).sum() / ((states - states.mean(0)) ** 2).sum()
    assert reads.projector_error == pytest.approx(error, rel=1e-3)
