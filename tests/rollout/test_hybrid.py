"""The hybrid space: what is drawn and recorded, and what the update scores, against NumPy for one sample at a time.

N prompts, G samples of a prompt, P prompt length, T completion length.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.agent import Reading
from lam_jax.rollout.actions import HybridActions, LatentActions, TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.rescore import hybrid_logps
from lam_jax.rollout.run import run_rollout
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from tests import tiny
from tests.rollout import plain
from tests.tiny import Row, make_batch, words
from tests.train import plain_rl

N, G, P, T = 2, 3, 10, 6
ROWS = [Row(words(4), ((1, 2, 2),)), Row(words(7, seed=1))]  # with an image and without
PROMPTS = make_batch(ROWS, P, left=True)
IDS = np.arange(40, 40 + N * G, dtype=np.int32).reshape(N, G)
KEY = jax.random.key(3)
SAMPLED = HybridSampling(temperature=0.8, top_k=5, top_p=0.95, emission=0.6, repetition_penalty=1.4)
CASES = [SAMPLED, HybridSampling(emission=1.0), SAMPLED.official()]


@functools.cache
def rolled(sampling, hybrid=True):
    actions = (HybridActions if hybrid else LatentActions)(tiny.agent(), Reading())
    config = RolloutConfig(samples=G, length=T, sampling=sampling, segment=4, stop=False)
    return jax.device_get(run_rollout(actions, PROMPTS, IDS, KEY, config))


def world(x, code):
    """The world model's logits [V] for a merge input and a codebook row, both [D], in float64."""
    agent = tiny.agent()
    blocks = jax.tree.map(lambda w: np.asarray(w, np.float64), agent.latent.world.blocks)
    for gate, up, down in zip(blocks.gate.kernel, blocks.up.kernel, blocks.down.kernel, strict=True):
        both = np.concatenate([x, code])
        opened = both @ gate
        x = x + (opened / (1 + np.exp(-opened)) * (both @ up)) @ down
    norm = agent.backbone.norm
    normed = x / np.sqrt((x * x).mean() + norm.epsilon) * np.asarray(norm.scale, np.float64)
    return np.asarray(agent.backbone.table, np.float64) @ normed


@dataclasses.dataclass
class Step:
    """One step of the reference: the code's draw, the token, its log-probability and entropy."""

    code: plain.Draw
    token: int
    logp: float
    entropy: float


def reference(out, sampling, penalised=True):
    """[N, G, T] of `Step`: from recorded tokens and codes, whole rows through backbone and policy, the rest NumPy."""
    agent, mask = tiny.agent(), np.ones((N, G, T), bool)
    args = (agent, PROMPTS, out.tokens, mask)
    x = np.asarray(plain_rl.chosen_from(plain_rl.merge_input(*args, True), PROMPTS), np.float64)
    codes = np.asarray(plain_rl.code_logits(*args), np.float64)
    book = np.asarray(agent.latent.codebook, np.float64)
    found = np.empty((N, G, T), object)
    for n, g, t in np.ndindex(N, G, T):
        noise = plain.noise(KEY, int(IDS[n, g]), t, plain.width(sampling, codes.shape[-1]))
        drawn = plain.draw(codes[n, g, t], sampling, noise)
        logits = world(x[n, g, t], book[out.actions[n, g, t]])
        if penalised:
            logits = plain.penalised(logits, [*ROWS[n].tokens, *out.tokens[n, g, :t]], sampling.repetition_penalty)
        logp = plain.log_softmax(logits / sampling.emission)
        own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEY, int(IDS[n, g])), t), 1)
        gumbel = np.asarray(jax.random.gumbel(own, logp.shape, jnp.float32), np.float64)
        entropy = -(np.exp(logp) * logp).sum()
        found[n, g, t] = Step(drawn, int((logp + gumbel).argmax()), float(logp[out.tokens[n, g, t]]), entropy)
    return found


score = jax.jit(hybrid_logps, static_argnums=(3, 4))


def of(steps, read):
    return np.vectorize(read, otypes=[float])(steps)


@pytest.mark.parametrize("sampling", CASES, ids=["truncated and penalised", "plain", "official"])
def test_draws_and_what_is_recorded_of_them(sampling):
    out = rolled(sampling)
    steps = reference(out, sampling)
    np.testing.assert_array_equal(out.actions, of(steps, lambda s: s.code.action))
    np.testing.assert_array_equal(out.tokens, of(steps, lambda s: s.token))
    np.testing.assert_allclose(out.logps, of(steps, lambda s: s.code.logp + s.logp), atol=1e-4)
    np.testing.assert_allclose(out.entropy, of(steps, lambda s: s.code.entropy + s.entropy), atol=1e-4)
    np.testing.assert_allclose(out.logp_gap, of(steps, lambda s: s.code.logp_gap), atol=1e-4)
    assert len(np.unique(out.actions)) > 2
    assert len(np.unique(out.tokens)) > 5


@pytest.mark.parametrize("sampling", CASES, ids=["truncated and penalised", "plain", "official"])
def test_the_update_scores_the_distribution_that_was_drawn_from(sampling):
    """The released log-probabilities know nothing of the penalty, nor do ours where they are asked for."""
    out = rolled(sampling)
    steps = reference(out, sampling, penalised=sampling.renormalise)
    space = HybridActions(tiny.agent(), Reading())
    logps, codes, tokens = score(space, PROMPTS, out, sampling, True)
    np.testing.assert_allclose(logps, of(steps, lambda s: s.code.logp + s.logp), atol=1e-4)
    np.testing.assert_allclose(codes, of(steps, lambda s: s.code.entropy), atol=1e-4)
    np.testing.assert_allclose(tokens, of(steps, lambda s: s.entropy), atol=1e-4)
    if sampling.renormalise:
        np.testing.assert_allclose(logps, out.logps, atol=2e-5)
    else:
        assert np.abs(np.asarray(logps) - out.logps).max() > 0.01, "the penalty shows in what was recorded"


def test_a_cold_emission_is_that_of_the_latent_space():
    """And a SamplingConfig, as evaluation has it, takes the same tokens; log-probabilities are those of the codes."""
    cold = dataclasses.replace(SAMPLED, emission=2e-5)
    latent, found, answered = rolled(cold.answering(), hybrid=False), rolled(cold), rolled(cold.answering())
    # Logits over so small a temperature are large: in float32 their differences are good to some hundredths.
    for out, near in ((found, 0.1), (answered, 1e-5)):
        np.testing.assert_array_equal(out.tokens, latent.tokens)
        np.testing.assert_array_equal(out.actions, latent.actions)
        np.testing.assert_allclose(out.logps, latent.logps, atol=near)
        np.testing.assert_allclose(out.entropy, latent.entropy, atol=near)
    assert (rolled(SAMPLED).tokens != latent.tokens).any()
    space = HybridActions(tiny.agent(), Reading())
    logps, _, tokens = score(space, PROMPTS, answered, cold.answering())
    np.testing.assert_allclose(logps, answered.logps, atol=2e-5)
    assert not np.asarray(tokens).any()


def test_other_spaces_draw_no_token_under_a_code():
    agent = tiny.agent()
    config = RolloutConfig(samples=G, length=T, sampling=HybridSampling())
    for space in (LatentActions(agent, Reading()), TokenActions(agent.backbone)):
        with pytest.raises(ValueError, match=r"Actions with an emission temperature of 0\.5.*only the hybrid space"):
            run_rollout(space, PROMPTS, IDS, KEY, config)


def test_impossible_temperatures_are_refused():
    for emission in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"emission is {emission}, expected more than 0"):
            HybridSampling(emission=emission)
    assert HybridSampling(top_k=3).answering() == SamplingConfig(top_k=3)
