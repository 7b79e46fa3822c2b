"""Samples that join and leave at different steps are those of a rollout of their own."""

import dataclasses

import jax
import numpy as np
import pytest

from lam_jax.hosts.compilation import CompileClock
from lam_jax.latent.agent import Reading
from lam_jax.rollout.actions import LatentActions, TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import run_rollout
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.rollout.slots import SlotDecoder, SlotSizes
from lam_jax.rollout.steering import SteeredActions
from tests import tiny
from tests.tiny import Row, make_batch, words

P, T, SLOTS = 12, 9, 3
PICTURE = Row(words(5), ((1, 4, 4),))
ROWS = [PICTURE, Row(words(9, seed=1)), Row(words(3, seed=2), ((1, 2, 2),), seed=3), Row(words(4, seed=4))]
# prompt, seed, sample number, most tokens, temperature, top-p, biased action
ASKED = [
    (0, 7, 0, 9, 1.0, 1.0, None),
    (1, 7, 1, 4, 0.0, 1.0, None),
    (2, 8, 0, 9, 0.7, 0.6, None),
    (3, 2**40, 2, 7, 1.0, 1.0, 3),
    (1, 9, 0, 1, 0.7, 0.6, None),
    (0, 10, 2, 9, 0.0, 1.0, 5),
    (2, 11, 0, 8, 1.0, 1.0, None),
]


SAMPLING = {"plain": SamplingConfig(), "penalised": SamplingConfig(top_k=4, repetition_penalty=1.3)}


@pytest.fixture(scope="module")
def spaces():
    agent = tiny.agent()
    return {"latent": LatentActions(agent, Reading()), "token": TokenActions(agent.backbone)}


def prompt(index):
    return make_batch([ROWS[index]], P, left=True)


def bias_of(action, width):
    bias = np.zeros(width, np.float32)
    if action is not None:
        bias[action] = 4.0
    return bias


def alone(space, asked, sampling, width):
    """Tokens, actions and log-probabilities of a sample in an ordinary rollout: 3 samples of each of the prompts."""
    row, seed, number, most, temperature, top_p, action = asked
    steered = SteeredActions(space, np.tile(bias_of(action, width), (3, 1)))
    own = dataclasses.replace(sampling, temperature=temperature, top_p=top_p)
    ids = np.tile(np.arange(3, dtype=np.int32), (len(ROWS), 1))
    out = run_rollout(steered, make_batch(ROWS, P, left=True), ids, jax.random.key(seed), RolloutConfig(3, T, own))
    kept = np.asarray(out.mask)[row, number] & (np.arange(T) < most)
    return [np.asarray(x)[row, number][kept] for x in (out.tokens, out.actions, out.logps)]


def together(decoder, openings, asked, leave=()):
    """All of `asked`, each in the first slot that is free; those of `leave` end after their first segment.

    `openings` is one of each prompt, or one of all.
    """
    found = [[[], [], []] for _ in asked]
    waiting, running = list(range(len(asked))), {}
    while waiting or running:
        for slot in range(SLOTS):
            if waiting and slot not in running:
                index = waiting.pop(0)
                row, seed, number, most, temperature, top_p, action = asked[index]
                own = openings if isinstance(openings, list) else [openings] * len(ROWS)
                decoder.join(
                    slot,
                    own[row],
                    jax.random.key(seed),
                    number,
                    limit=most,
                    temperature=temperature,
                    top_p=top_p,
                    bias=bias_of(action, decoder.actions),
                    row=0 if isinstance(openings, list) else row,
                )
                running[slot] = index
        keep = np.array(
            [slot in running and not (running[slot] in leave and found[running[slot]][0]) for slot in range(SLOTS)]
        )
        piece = decoder.segment(keep, any(asked[index][5] < 1 for index in running.values()))
        assert not piece.spoilt.any()
        for slot, index in list(running.items()):
            mask = piece.mask[slot]
            for kept, new in zip(found[index], (piece.tokens, piece.actions, piece.logps)):
                kept += new[slot][mask].tolist()
            over = len(found[index][0]) == asked[index][3] or (
                found[index][0] and found[index][0][-1] in tiny.CONFIG.eos_ids
            )
            if over or not keep[slot]:
                del running[slot]
    return found


@pytest.mark.parametrize(("name", "kind"), [("latent", "plain"), ("token", "penalised")])
def test_a_sample_is_that_of_a_rollout_of_its_own_whoever_is_beside_it(spaces, name, kind):
    space, sampling = spaces[name], SAMPLING[kind]
    decoder = SlotDecoder(space, SlotSizes(SLOTS, P + 3, T, 2), sampling)
    openings = [decoder.read(prompt(row)) for row in range(len(ROWS))]
    expected = [alone(space, one, sampling, decoder.actions) for one in ASKED]
    read_at_once = decoder.read(make_batch(ROWS, P, left=True))
    for order, read in ((range(len(ASKED)), openings), (reversed(range(len(ASKED))), read_at_once)):
        order = list(order)
        found = together(decoder, read, [ASKED[i] for i in order])
        for i, (tokens, actions, logps) in zip(order, found):
            assert tokens == expected[i][0].tolist()
            assert actions == expected[i][1].tolist()
            np.testing.assert_allclose(logps, expected[i][2], atol=2e-5)


def test_one_that_leaves_changes_nobody_and_nothing_of_it_stays(spaces):
    space, sampling = spaces["latent"], SAMPLING["plain"]
    decoder = SlotDecoder(space, SlotSizes(SLOTS, P, T, 2), sampling)
    openings = [decoder.read(prompt(row)) for row in range(len(ROWS))]
    # A prompt whose keys and values are no numbers: masked they would still spoil sums.
    spoilt = jax.tree.map(lambda x: x * np.float32(np.nan) if x.dtype == np.float32 else x, openings[0])
    for slot in range(SLOTS):
        decoder.join(slot, spoilt, jax.random.key(0), 0, limit=T, temperature=1.0)
    piece = decoder.segment(np.ones(SLOTS, bool), False)
    assert piece.spoilt[piece.mask].all()
    found = together(decoder, openings, ASKED, leave=(1, 5))
    for i, (tokens, _, _) in enumerate(found):
        whole = alone(space, ASKED[i], sampling, decoder.actions)[0].tolist()
        assert tokens == (whole[:2] if i in (1, 5) else whole)


def test_other_values_compile_nothing(spaces):
    decoder = SlotDecoder(spaces["latent"], SlotSizes(SLOTS, P, T, 2), SamplingConfig())
    openings = [decoder.read(prompt(row)) for row in range(len(ROWS))]
    together(decoder, openings, ASKED[:2])
    with CompileClock() as clock:
        together(decoder, openings, ASKED)
    assert clock.programs == 0


def test_a_sample_that_has_no_room_is_refused(spaces):
    decoder = SlotDecoder(spaces["latent"], SlotSizes(1, P, T, 2), SamplingConfig())
    with pytest.raises(ValueError, match="expected 1 to 9"):
        decoder.join(0, decoder.read(prompt(0)), jax.random.key(0), 0, limit=T + 1, temperature=1.0)


@pytest.mark.parametrize(("length", "most"), [(118, 1), (59, 2), (60, 2), (30, 4), (15, 4), (119, 1), (500, 1)])
def test_as_many_prompts_are_read_at_a_time_as_make_one_of_the_longest(spaces, length, most):
    decoder = SlotDecoder(spaces["token"], SlotSizes(8, 118, 2, 2), SamplingConfig())
    assert decoder.together(length) == tuple(n for n in (1, 2, 4) if n <= most)
    assert max(SlotDecoder(spaces["token"], SlotSizes(3, 118, 2, 2), SamplingConfig()).together(length)) <= 3
