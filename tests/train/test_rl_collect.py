"""What a collected rollout holds: shaped advantages, refills, tokens and log-probabilities of the official method.

N prompts, G samples of a prompt, T completion length.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import METHODS
from tests import tiny
from tests.made_reward import as_reward
from tests.tiny import Row, words
from tests.train import plain_rl
from tests.train.made_rl import (
    G,
    N,
    T,
    actions_of,
    agent_of,
    collated,
    collect,
    config,
    make_with,
    moved_state,
    prompts,
)

OK = np.ones((N, G), bool)


def settings(space, sampling, name="grpo", stop=False, **changes):
    made = config(space, name, **changes)
    return dataclasses.replace(made, rollout=dataclasses.replace(made.rollout, sampling=sampling, stop=stop))


def ending_at(token):
    """The tiny agent with another end-of-turn token."""
    agent = tiny.agent()
    backbone = agent.backbone
    return agent.replace(backbone=backbone.replace(config=dataclasses.replace(backbone.config, eos_id=int(token))))


def lengths_if(tokens, eos):
    """[N, G] up to and including the first `eos`."""
    ends = tokens == eos
    return np.where(ends.any(axis=-1), ends.argmax(axis=-1) + 1, T)


def test_overlong_answers_are_punished_before_advantages_are_computed():
    """T = 5 and a zone of 2 tokens: 0 up to length 3, -0.5 at 4, -1 at 5. It is not part of the reported reward."""
    penalty = np.array([np.nan, 0.0, 0.0, 0.0, -0.5, -1.0])
    rewards = np.stack([np.full(G, 1.0), np.arange(G) / G])
    sampling = SamplingConfig()
    free, create = make_with(settings("token", sampling), as_reward(lambda *_: (rewards, OK)))
    tokens = np.asarray(collect(free, create(), prompts(0))[0].rollout.tokens)
    # An end-of-turn token that ends some of the first prompt's answers before the zone, some in it and some not.
    eos = max(range(tiny.VOCAB), key=lambda t: np.bincount(lengths_if(tokens, t)[0].clip(3), minlength=6)[3:].min())
    lengths = lengths_if(tokens, eos)
    assert set(lengths[0].clip(3)) == {3, 4, 5}

    dapo = settings("token", sampling, "dapo", stop=True, overlong_share=0.4)
    step, create = make_with(dapo, as_reward(lambda *_: (rewards, OK)), agent=ending_at(eos))
    batch, metrics = collect(step, create(), prompts(0))
    np.testing.assert_array_equal(np.asarray(batch.mask).sum(axis=-1), lengths)
    shaped = rewards + penalty[lengths]
    expected = (shaped - shaped.mean(1, keepdims=True)) / (shaped.std(1, ddof=1, keepdims=True) + 1e-4)
    assert np.ptp(expected[0]) > 1, "equal rewards, told apart by their lengths alone"
    np.testing.assert_allclose(batch.advantages, expected, atol=1e-5)
    assert metrics["reward_mean"] == pytest.approx(rewards.mean())
    assert metrics["informative_groups"] == 1
    assert metrics["refills"] == 0


def test_no_two_attempts_of_dynamic_sampling_share_their_noise():
    """The same prompt everywhere, in every row and refill: all answers differ, and so do those of the next step."""
    seen = []

    @as_reward
    def reward(examples, answers):
        seen.append([answer for group in answers for answer in group])
        informative = len(seen) % 3 == 0
        return np.tile(np.arange(G) / G if informative else np.full(G, 0.5), (N, 1)), OK

    same = collated([Row(words(6, 1))] * N)
    # Nearly any token at any place, so that equal answers come from equal noise.
    dapo = settings("token", SamplingConfig(temperature=4.0), "dapo", max_refills=2)
    step, create = make_with(dapo, reward, [same] * 4)
    state = create()
    for now in (state, state.replace(step=state.step + 1)):
        _, metrics = collect(step, now, same)
        assert metrics["refills"] == 2
    answers = [answer for attempt in seen for answer in attempt]
    assert len(answers) == 6 * N * G
    assert len(set(answers)) == len(answers)


def test_official_rollouts_emit_by_the_block_readout_and_do_not_project():
    """Against whole rows: tokens and recorded log-probabilities, over all codes, of a policy whose final norm moved."""
    sampling = SamplingConfig(top_k=4, temperature=0.8).official()
    step, create = make_with(settings("latent", sampling), method=METHODS["official"])
    state = moved_state(step, create)
    drawn = prompts(0)
    batch, _ = collect(step, state, drawn)
    taken, recorded = actions_of(batch)

    @jax.jit
    def plain(agent):
        args = (agent, drawn.batch, taken.tokens, taken.mask)
        found = {}
        for project in (False, True):
            x = plain_rl.chosen_from(plain_rl.merge_input(*args, project), drawn.batch)
            emitted = {r: plain_rl.next_tokens(agent, x, taken.actions, r) for r in ("merged", "delta", "block")}
            found[project] = emitted | {"codes": plain_rl.code_logits(*args, project)}
        return found

    now, start = plain(agent_of(step, state)), plain(agent_of(step))
    np.testing.assert_array_equal(taken.tokens, now[False]["block"])
    codes = now[False]["codes"]
    np.testing.assert_allclose(recorded, plain_rl.logps(codes, taken.actions, temperature=0.8), atol=1e-4)
    rank = jnp.sum(codes > jnp.take_along_axis(codes, jnp.asarray(taken.actions)[..., None], axis=-1), axis=-1)
    assert int(rank.max()) == 3

    # All of this would show: another readout, the projector on the row without an image, the norm that did not move.
    text = ~np.asarray(drawn.batch.has_image)
    for name in ("merged", "delta"):
        assert (np.asarray(now[False][name]) != taken.tokens).mean() > 0.3
    assert (np.asarray(now[True]["block"]) != taken.tokens)[text].mean() > 0.3
    for other in (now[True], start[False]):
        assert np.abs(plain_rl.logps(other["codes"], taken.actions, temperature=0.8) - recorded)[text].max() > 0.01
