"""Samples are scored once each, wherever they lie. N prompts, G samples, T tokens."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from lam_jax.data.schemas import Example
from lam_jax.parallel import ROLLOUT, make_mesh, place
from lam_jax.rewards.verdict import Verdict
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
    np.testing.assert_array_equal(total[3], np.where(EXPECTED == 1015, np.nan, EXPECTED), "the part called reward")
    answers = list(itertools.chain(*asked))
    assert len(answers) == len(set(answers)) == 3 * G, "each sample was scored by one process"


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts by the prompt's number: two, one, and a failed call."""

    def __call__(self, examples, answers, samples):
        kinds = {
            "0": lambda g: Verdict({"tone": (g + 1.0, 2.0), "colour": (1.0, 4.0)}),
            "1": lambda g: Verdict({"tone": (3.0, 2.0)}),
            "2": lambda g: Verdict(error=f"no reply for {g}"),
        }
        return [[kinds[example.id](g) for g in samples] for example in examples]


def test_named_parts_are_kept_apart():
    """Where a sample has no part of a name, it counts nowhere in that part's mean."""
    found = score(jax.numpy.asarray(TOKENS), jax.numpy.asarray(MASK), EXAMPLES, decode, Parts())
    assert list(found.parts) == ["colour", "tone"], "in the order of their names, whoever has them first"
    nan = np.nan
    np.testing.assert_array_equal(found.parts["tone"], [[0.5, 1, 1.5, 2], [1.5] * 4, [nan] * 4])
    np.testing.assert_array_equal(found.parts["colour"], [[0.25] * 4, [nan] * 4, [nan] * 4])
    metrics = found.metrics(np.ones((1, G), bool))
    assert metrics["reward/tone"] == (0.5 + 1 + 1.5 + 2 + 4 * 1.5) / 8
    assert metrics["reward/colour"] == 0.25
    assert metrics["failed_rewards"] == 4
    assert found.errors == {(2, g): f"no reply for {g}" for g in range(G)}


def test_failed_calls_are_told_by_their_places_on_the_process_that_made_them(monkeypatch):
    """The halves of the mesh cut the samples of the prompt whose calls fail."""
    mesh = make_mesh((2, 2, 2))
    tokens, mask = (place(x, mesh, ROLLOUT, "prompts", "samples") for x in (TOKENS, MASK))
    told = []
    for i in range(2):
        own = {d.id for d in mesh.devices[:, i].ravel()}
        monkeypatch.setattr(module, "_held", lambda x, own=own: [s for s in x.addressable_shards if s.device.id in own])
        told.append(dict(score(tokens, mask, EXAMPLES, decode, Parts()).errors))
    assert told == [{(2, g): f"no reply for {g}" for g in half} for half in ((0, 1), (2, 3))]


def test_without_a_successful_call_no_part_is_named():
    found = score(jax.numpy.asarray(TOKENS[2:3]), jax.numpy.asarray(MASK[2:3]), EXAMPLES[2:], decode, Parts())
    assert not [name for name in found.metrics(np.ones((1, G), bool)) if name.startswith("reward/")]
    assert all(np.isfinite(list(found.metrics(np.ones((1, G), bool)).values())))


def test_names_of_parts_agree_where_a_process_has_none(monkeypatch):
    """The second of two processes scores the prompt whose calls fail: it learns the names from the first."""
    mesh = make_mesh((4, 1, 2))
    tokens, mask = (place(x, mesh, ROLLOUT, "prompts", "samples") for x in (TOKENS, MASK))
    halves = [{d.id for d in mesh.devices[rows].ravel()} for rows in ([0, 1], [2, 3])]
    said, shares = [], []
    monkeypatch.setattr(module, "gather", lambda values: (shares.append(values), values[None])[1])
    for own in halves:
        monkeypatch.setattr(module, "gather_json", lambda names: (said.append(names), [["colour", "tone"], []])[1])
        monkeypatch.setattr(module, "_held", lambda x, own=own: [s for s in x.addressable_shards if s.device.id in own])
        score(tokens, mask, EXAMPLES, decode, Parts())
    assert said == [["colour", "tone"], []]
    assert shares[0].shape == shares[1].shape, "what is added up has one shape on both"
    _, ok, _, colour, tone = np.sum([share.view(np.float64) for share in shares], axis=0)
    np.testing.assert_array_equal(ok, [[1] * 4, [1] * 4, [0] * 4])
    np.testing.assert_array_equal(tone, [[0.5, 1, 1.5, 2], [1.5] * 4, [np.nan] * 4])
    np.testing.assert_array_equal(colour[0], [0.25] * 4)


def test_masked_mean():
    values = jax.numpy.asarray(TOKENS, jax.numpy.float32)
    assert float(masked_mean(values, jax.numpy.asarray(MASK))) == pytest.approx(TOKENS[MASK].mean())
    assert float(masked_mean(values, jax.numpy.zeros((N, G, T), bool))) == 0
