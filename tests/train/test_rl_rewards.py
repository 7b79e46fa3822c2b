"""Samples are scored once each, wherever they lie. N prompts, G samples, T tokens."""

import itertools

import jax
import numpy as np
import pytest

from lam_jax.data.schemas import Example
from lam_jax.parallel import ROLLOUT, make_mesh, place
from lam_jax.train import rl_rewards as module
from lam_jax.train.rl_rewards import masked_mean, score
from tests.made_reward import as_reward

N, G, T = 4, 4, 3
TOKENS = np.arange(N * G * T, dtype=np.int32).reshape(N, G, T)
MASK = np.ones((N, G, T), bool)
MASK[1, 2, 1:] = False
CHAT = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "."})
EXAMPLES = tuple(Example(str(i), CHAT) for i in range(3))  # the fourth prompt fills up the mesh


def decode(tokens, mask):
    return [[" ".join(map(str, row[keep])) for row, keep in zip(group, keeps)] for group, keeps in zip(tokens, mask)]


@as_reward
def reward(examples, answers):
    """The prompt's number and the first token; answers with token 15 fail and give no number."""
    values = np.array([[int(e.id) * 1000 + int(a.split()[0]) for a in g] for e, g in zip(examples, answers)], float)
    ok = values != 1015
    return np.where(ok, values, np.nan), ok


EXPECTED = np.array([[1000 * n + TOKENS[n, g, 0] for g in range(G)] for n in range(3)], float)


def check(found):
    np.testing.assert_array_equal(found.ok, EXPECTED != 1015)
    np.testing.assert_array_equal(found.rewards[found.ok], EXPECTED[found.ok])
    np.testing.assert_array_equal(found.lengths, MASK[:3].sum(axis=-1))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (4, 1, 2)])
def test_one_process_scores_all_in_one_call(shape):
    calls = []

    def counted(examples, answers, samples):
        calls.append(len(answers))
        return reward(examples, answers, samples)

    tokens, mask = (place(x, make_mesh(shape), ROLLOUT, "prompts", "samples") for x in (TOKENS, MASK))
    check(score(tokens, mask, EXAMPLES, decode, counted))
    assert calls == [3]


def test_shares_of_several_processes_make_up_the_whole(monkeypatch):
    """Two processes, each with the devices of one half of a (2, 2, 2) mesh whose halves cut the samples."""
    mesh = make_mesh((2, 2, 2))
    tokens, mask = (place(x, mesh, ROLLOUT, "prompts", "samples") for x in (TOKENS, MASK))
    halves = [{d.id for d in mesh.devices[:, i].ravel()} for i in range(2)]
    shares = []
    monkeypatch.setattr(module, "gather", lambda values: (shares.append(values), values[None])[1])
    asked = []

    def counted(examples, answers, samples):
        asked.append([answer for group in answers for answer in group])
        for example, group in zip(examples, answers):
            first = [int(answer.split()[0]) for answer in group]
            assert first == TOKENS[int(example.id), list(samples), 0].tolist(), "samples keep their numbers"
        return reward(examples, answers, samples)

    for own in halves:
        monkeypatch.setattr(module, "_held", lambda x, own=own: [s for s in x.addressable_shards if s.device.id in own])
        score(tokens, mask, EXAMPLES, decode, counted)
    total = np.sum([share.view(np.float64) for share in shares], axis=0)
    check(module.Scores(total[0], total[1] > 0, total[2].astype(np.int32)))
    answers = list(itertools.chain(*asked))
    assert len(answers) == len(set(answers)) == 3 * G, "each sample was scored by one process"


def test_masked_mean():
    values = jax.numpy.asarray(TOKENS, jax.numpy.float32)
    assert float(masked_mean(values, jax.numpy.asarray(MASK))) == pytest.approx(TOKENS[MASK].mean())
    assert float(masked_mean(values, jax.numpy.zeros((N, G, T), bool))) == 0
