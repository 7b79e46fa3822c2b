"""The rollout engine against step-by-step generation without any cache.

N prompts, G samples of a prompt, P prompt length, T completion length, K codes, V vocabulary.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.agent import Reading
from lam_jax.nn import block, stack
from lam_jax.rollout.actions import LatentActions, TokenActions
from lam_jax.rollout.engine import RolloutConfig, rollout
from lam_jax.rollout.rescore import latent_logps, sample_positions, token_space_logps
from lam_jax.rollout.sampling import SamplingConfig, penalise_repeats, sample, sample_keys
from tests import tiny
from tests.tiny import Row, make_batch, words

N, G, P, T = 4, 2, 12, 7
PADDING_ROW = 3
PROMPTS = make_batch(
    [Row(words(5), ((1, 4, 4),)), Row(words(9, seed=1)), Row(words(3, seed=2), ((1, 2, 2),), seed=3), Row(())],
    P,
    left=True,
)
IDS = jnp.arange(100, 100 + N * G, dtype=jnp.int32).reshape(N, G)
KEY = jax.random.key(3)
SAMPLED = {"latent": SamplingConfig(temperature=0.8, top_k=4), "token": SamplingConfig()}
PENALISED = SamplingConfig(temperature=0.0, repetition_penalty=1.5)
CASES = [("latent", SAMPLED["latent"]), ("token", SAMPLED["token"]), ("latent", PENALISED), ("token", PENALISED)]

pytestmark = pytest.mark.usefixtures("quick_compilation")
run = jax.jit(rollout, static_argnames="config")


def settings(sampling, **changes) -> RolloutConfig:
    """A segment of 3 steps: the third one runs past the length of 7."""
    return RolloutConfig(**{"samples": G, "length": T, "sampling": sampling, "segment": 3} | changes)


def action_space(name, agent):
    return LatentActions(agent, Reading()) if name == "latent" else TokenActions(agent.backbone)


@jax.jit
def forward(agent, tokens, length):
    """Pre-norm states, code logits and merge inputs [N, G, 1 + T, ..] at each completion token and the end."""
    prompts = jax.tree.map(lambda x: jnp.repeat(x, G, axis=0), PROMPTS)
    later = sample_positions(PROMPTS, G, T).reshape(N * G, 3, T)
    rotary = agent.backbone.rotary(jnp.concatenate([prompts.positions, later], axis=2))
    mask = jnp.concatenate([prompts.mask, jnp.broadcast_to(jnp.arange(T)[None] < length, (N * G, T))], axis=1)
    # An image token that is generated is no image: it keeps its plain embedding.
    embedded = [agent.backbone.embed_batch(prompts), agent.backbone.embed(tokens.reshape(N * G, T))]
    hidden = block.run(agent.backbone.blocks, jnp.concatenate(embedded, axis=1), rotary, mask)
    e = agent.backbone.norm(hidden)
    x = jnp.where(prompts.has_image[:, None, None], e, agent.latent.projector.mean(e))
    codes = agent.latent.policy(x, rotary, mask)
    return tuple(y[:, P - 1 :].reshape(N, G, T + 1, -1) for y in (hidden, codes, x))


def step_by_step(space, agent, sampling):
    """(tokens, actions, logps, hidden) of T steps without stop, each from a forward pass over the whole rows."""
    seen = jnp.zeros((N, G, tiny.VOCAB), bool)
    for n in range(N):
        seen = seen.at[n, :, PROMPTS.tokens[n][PROMPTS.mask[n]]].set(True)

    @jax.jit
    def choose(agent, hidden, codes, x, seen, t):
        def penalise(logits):
            return penalise_repeats(logits, seen, sampling.repetition_penalty)

        keys = sample_keys(KEY, IDS, t)
        if space == "token":
            drawn = sample(keys, penalise(agent.backbone.logits(agent.backbone.norm(hidden))), sampling)
            return drawn.action, drawn
        drawn = sample(keys, codes, sampling)
        merged, _ = agent.latent.world(x, agent.latent.codebook[drawn.action])
        return jnp.argmax(penalise(agent.backbone.logits(agent.backbone.norm(merged))), axis=-1), drawn

    tokens, actions, logps = jnp.zeros((N, G, T), jnp.int32), [], []
    for t in range(T):
        parts = forward(agent, tokens, jnp.int32(t))
        token, drawn = choose(agent, *(y[:, :, t] for y in parts), seen, jnp.int32(t))
        tokens = tokens.at[:, :, t].set(token.astype(jnp.int32))
        seen = seen | jax.nn.one_hot(token, tiny.VOCAB, dtype=bool)
        actions.append(drawn.action)
        logps.append(drawn.logp)
    hidden, _, _ = forward(agent, tokens, jnp.int32(T))
    return tuple(np.asarray(y) for y in (tokens, jnp.stack(actions, 2), jnp.stack(logps, 2), hidden[:, :, 1:]))


@dataclasses.dataclass
class Case:
    """A rollout whose end-of-turn token is one that occurs, and the reference without a stop."""

    space: LatentActions | TokenActions
    config: RolloutConfig
    taken: object
    reference: tuple

    @property
    def mask(self):
        return np.asarray(self.taken.mask)


def with_eos(agent, token):
    backbone = agent.backbone
    return agent.replace(backbone=backbone.replace(config=dataclasses.replace(backbone.config, eos_id=int(token))))


@pytest.fixture(scope="module")
def case():
    """Cases by action space and sampling, made once each."""
    made = {}

    def get(name, sampling) -> Case:
        if (name, sampling) not in made:
            reference = step_by_step(name, tiny.agent(), sampling)
            space = action_space(name, with_eos(tiny.agent(), reference[0][0, 0, 3]))
            config = settings(sampling)
            made[name, sampling] = Case(space, config, run(space, PROMPTS, IDS, KEY, config), reference)
        return made[name, sampling]

    return get


@pytest.mark.parametrize(("name", "sampling"), CASES)
def test_equals_generation_without_a_cache(case, name, sampling):
    """Tokens, actions and their log-probabilities, up to the end; greedy with repetition penalty, and sampled."""
    case = case(name, sampling)
    tokens, actions, logps, hidden = case.reference
    taken, mask = case.taken, case.mask
    np.testing.assert_array_equal(np.asarray(taken.tokens)[mask], tokens[mask])
    np.testing.assert_array_equal(np.asarray(taken.actions)[mask], actions[mask])
    np.testing.assert_allclose(np.asarray(taken.logps)[mask], logps[mask], atol=1e-4)
    np.testing.assert_allclose(np.asarray(taken.hidden)[mask], hidden[mask], atol=1e-4)


@pytest.mark.parametrize("name", ["latent", "token"])
def test_ends_at_the_end_of_turn_token(case, name):
    """It is the last token that counts; pad follows. Prompts of padding only count nowhere."""
    case = case(name, SAMPLED[name])
    eos = case.space.backbone.config.eos_id
    for n, g in np.ndindex(N, G):
        ends = np.flatnonzero(case.reference[0][n, g] == eos)
        length = 0 if n == PADDING_ROW else min([*(ends + 1), T])
        assert case.mask[n, g].tolist() == [t < length for t in range(T)]
        assert not np.asarray(case.taken.tokens)[n, g, length:].any()
    assert case.mask[0, 0].sum() <= 4
    np.testing.assert_array_equal(case.taken.lengths, case.mask.sum(axis=-1))


@pytest.mark.parametrize("name", ["latent", "token"])
def test_recorded_log_probabilities_equal_those_of_the_update(case, name):
    case = case(name, SAMPLED[name])
    if name == "latent":
        logps, entropies = jax.jit(latent_logps, static_argnums=3)(case.space, PROMPTS, case.taken, SAMPLED[name])
    else:
        rescore = jax.jit(token_space_logps, static_argnums=3)
        logps, entropies = rescore(case.space.backbone, PROMPTS, case.taken, SAMPLED[name])
    np.testing.assert_allclose(np.asarray(logps)[case.mask], np.asarray(case.taken.logps)[case.mask], atol=2e-5)
    np.testing.assert_allclose(np.asarray(entropies)[case.mask], np.asarray(case.taken.entropy)[case.mask], atol=2e-5)


def same(one, two, mask):
    for got, want in zip(
        (one.tokens, one.actions, one.mask, one.logps), (two.tokens, two.actions, two.mask, two.logps), strict=True
    ):
        np.testing.assert_allclose(np.where(mask, got, 0), np.where(mask, want, 0), atol=1e-5)


def test_results_do_not_depend_on_the_batch_layout(case):
    """Prompts in another order and samples swapped, with their numbers; and two prompts among padding."""
    case = case("latent", SAMPLED["latent"])
    order = jnp.array([2, 3, 0, 1])
    prompts = jax.tree.map(lambda x: x[order], PROMPTS)
    moved = run(case.space, prompts, IDS[order][:, ::-1], KEY, case.config)
    back = jnp.argsort(order)
    same(jax.tree.map(lambda x: x[back][:, ::-1], moved.replace(prompt_hidden=moved.hidden)), case.taken, case.mask)
    few = jnp.array([PADDING_ROW, 1, PADDING_ROW, 2])
    alone = run(case.space, jax.tree.map(lambda x: x[few], PROMPTS), IDS[few], KEY, case.config)
    for at, n in ((1, 1), (3, 2)):
        np.testing.assert_array_equal(alone.tokens[at], case.taken.tokens[n])


def test_without_stop_every_sample_has_full_length_whatever_the_segment(case):
    case = case("token", SAMPLED["token"])
    free = run(case.space, PROMPTS, IDS, KEY, settings(SAMPLED["token"], stop=False, segment=T))
    same(free, case.taken.replace(mask=free.mask), case.mask)
    np.testing.assert_array_equal(np.asarray(free.tokens)[:PADDING_ROW], case.reference[0][:PADDING_ROW])
    assert np.asarray(free.mask)[:PADDING_ROW].all()


@pytest.mark.parametrize("name", ["latent", "token"])
def test_large_models_decode_with_their_layers_stacked(case, name, monkeypatch):
    case = case(name, SAMPLED[name])
    monkeypatch.setattr(stack, "UNROLLED_WEIGHTS", 0)
    same(jax.jit(rollout, static_argnames="config")(case.space, PROMPTS, IDS, KEY, case.config), case.taken, case.mask)


@pytest.mark.parametrize("name", ["latent", "token"])
def test_a_step_computes_its_cosines_once_and_not_in_every_layer(case, name):
    case = case(name, SAMPLED[name])
    program = run.lower(case.space, PROMPTS, IDS, KEY, config=case.config).compile().as_text()
    cosines = re.findall(rf"f32\[{N},{G},1,\d+\]\S* cosine\(", program)
    assert len(cosines) == 2  # before the loop and in it


def test_other_numbers_or_another_key_draw_other_samples(case):
    case = case("latent", SAMPLED["latent"])
    tokens = np.asarray(case.taken.tokens)[:PADDING_ROW]
    for ids, key in ((IDS + 50, KEY), (IDS, jax.random.key(4))):
        other = run(case.space, PROMPTS, ids, key, case.config)
        assert (np.asarray(other.tokens)[:PADDING_ROW] != tokens).any()


def test_the_gradient_from_recorded_states_is_that_of_a_full_recomputation(case):
    """The latent update never runs the backbone."""
    case = case("latent", SAMPLED["latent"])
    weight = jnp.asarray(np.where(case.mask, np.random.default_rng(0).normal(size=(N, G, T)), 0).astype(np.float32))
    agent, taken, sampling = case.space.agent, case.taken, SAMPLED["latent"]

    def score(policy, from_states):
        moved = agent.replace(latent=agent.latent.replace(policy=policy))
        if from_states:
            logps, _ = latent_logps(action_space("latent", moved), PROMPTS, taken, sampling)
        else:
            _, codes, _ = forward(moved, taken.tokens, jnp.int32(T))
            logits = jnp.take_along_axis(codes[:, :, :T] / sampling.scale, taken.support.indices, axis=-1)
            chosen = taken.support.indices == taken.actions[..., None]
            logps = jnp.sum(jnp.where(chosen, jax.nn.log_softmax(logits, axis=-1), 0.0), axis=-1)
        return jnp.sum(weight * logps)

    ours, expected = (jax.jit(jax.grad(score), static_argnums=1)(agent.latent.policy, f) for f in (True, False))
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert float(abs(want).max()) > 0
        np.testing.assert_allclose(got, want, atol=1e-4 * max(1.0, float(abs(want).max())))


def test_the_penalised_distribution_cannot_be_scored_by_the_update(case):
    case = case("token", SAMPLED["token"])
    sampling = SamplingConfig(repetition_penalty=1.05)
    with pytest.raises(ValueError, match=r"repetition_penalty is 1\.05"):
        token_space_logps(case.space.backbone, PROMPTS, case.taken, sampling)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"RolloutConfig\.segment must be at least 1, got 0"):
        RolloutConfig(segment=0)
