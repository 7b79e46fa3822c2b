"""The rollout engine against step-by-step generation without any cache, its actions drawn by `tests.rollout.plain`.

N prompts, G samples of a prompt, P prompt length, T completion length, K codes, V vocabulary.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.agent import Reading
from lam_jax.nn import block
from lam_jax.nn.layout import PLAIN, Layout
from lam_jax.parallel import ROLLOUT, UPDATE, use
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.rollout.actions import LatentActions, TokenActions
from lam_jax.rollout.engine import Rollout, RolloutConfig, rollout
from lam_jax.rollout.rescore import latent_logps, token_space_logps
from lam_jax.rollout.sampling import SamplingConfig
from tests import tiny
from tests.rollout import plain
from tests.tiny import Row, make_batch, words

N, G, P, T = 4, 2, 12, 7
PADDING_ROW = 3
ROWS = [Row(words(5), ((1, 4, 4),)), Row(words(9, seed=1)), Row(words(3, seed=2), ((1, 2, 2),), seed=3), Row(())]
PROMPTS = make_batch(ROWS, P, left=True)
IDS = jnp.arange(100, 100 + N * G, dtype=jnp.int32).reshape(N, G)
KEY = jax.random.key(3)
SAMPLED = {"latent": SamplingConfig(temperature=0.8, top_k=4), "token": SamplingConfig()}
PENALISED = SamplingConfig(temperature=0.0, repetition_penalty=1.5)
TRUNCATED = SamplingConfig(temperature=0.7, top_k=12, top_p=0.8, repetition_penalty=1.5)
CASES = [(name, sampling) for name in SAMPLED for sampling in (SAMPLED[name], PENALISED)] + [("token", TRUNCATED)]

ALL = 2**40  # weights: stacks of any size are unrolled
LAYOUTS = {"plain": PLAIN, "apart": Layout(unrolled=ALL), "joined": Layout(joined=True)}


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def laid_out(space, prompts, ids, key, config, layout):
    with use(None, ROLLOUT, layout):
        return rollout(space, prompts, ids, key, config)


def run(space, prompts, ids, key, config, layout=None):
    return laid_out(space, prompts, ids, key, config=config, layout=layout or choose_layout(None))


def settings(sampling, **changes) -> RolloutConfig:
    """A segment of 3 steps: the third one runs past the length of 7."""
    return RolloutConfig(**{"samples": G, "length": T, "sampling": sampling, "segment": 3} | changes)


def action_space(name, agent):
    return LatentActions(agent, Reading()) if name == "latent" else TokenActions(agent.backbone)


def plain_positions():
    """[N * G, 3, P + T]: each prompt's, then all three streams go on after its largest. Padding has any."""
    out = np.zeros((N, 3, P + T), np.int32)
    for n, row in enumerate(ROWS):
        own = plain.mrope(row.tokens, row.grids, tiny.IMAGE, tiny.CONFIG.vision.merge)
        out[n, :, P - own.shape[1] : P] = own
        out[n, :, P:] = own.max(initial=-1) + 1 + np.arange(T)
    return jnp.asarray(np.repeat(out, G, axis=0))


@jax.jit
def forward(agent, tokens, length):
    """Pre-norm states, code logits and merge inputs [N, G, P + T, ..] of whole rows with `length` completion tokens."""
    prompts = jax.tree.map(lambda x: jnp.repeat(x, G, axis=0), PROMPTS)
    rotary = agent.backbone.rotary(plain_positions())
    mask = jnp.concatenate([prompts.mask, jnp.broadcast_to(jnp.arange(T)[None] < length, (N * G, T))], axis=1)
    # An image token that is generated is no image: it keeps its plain embedding.
    embedded = [agent.backbone.embed_batch(prompts), agent.backbone.embed(tokens.reshape(N * G, T))]
    hidden = block.run(agent.backbone.blocks, jnp.concatenate(embedded, axis=1), rotary, mask)
    e = agent.backbone.norm(hidden)
    x = jnp.where(prompts.has_image[:, None, None], e, agent.latent.projector.mean(e))
    codes = agent.latent.policy(x, rotary, mask)
    return tuple(y.reshape(N, G, P + T, -1) for y in (hidden, codes, x))


@jax.jit
def token_logits(agent, hidden):
    return agent.backbone.logits(agent.backbone.norm(hidden))


@jax.jit
def world_logits(agent, x, codes):
    merged, _ = agent.latent.world(x, agent.latent.codebook[codes])
    return agent.backbone.logits(agent.backbone.norm(merged))


@dataclasses.dataclass
class Reference:
    """T steps without a stop: tokens and what was drawn at each [N, G, T], states [N, G, P + T, D]."""

    tokens: np.ndarray
    draws: np.ndarray  # of plain.Draw
    hidden: np.ndarray

    def drawn(self, name):
        return np.vectorize(lambda d: getattr(d, name))(self.draws)


def step_by_step(space, agent, sampling) -> Reference:
    """Each step from a forward pass over the whole rows, chosen from in NumPy, one sample at a time."""
    tokens, draws = np.zeros((N, G, T), np.int32), np.empty((N, G, T), object)
    for t in range(T):
        hidden, codes, x = (y[:, :, P - 1 + t] for y in forward(agent, jnp.asarray(tokens), jnp.int32(t)))
        choices = np.asarray(token_logits(agent, hidden) if space == "token" else codes)
        for n, g in np.ndindex(N, G):
            logits = choices[n, g]
            if space == "token":
                said = [*ROWS[n].tokens, *tokens[n, g, :t]]
                logits = plain.penalised(logits, said, sampling.repetition_penalty)
            gumbel = plain.noise(KEY, int(IDS[n, g]), t, plain.width(sampling, len(logits)))
            draws[n, g, t] = plain.draw(logits, sampling, gumbel)
        actions = np.array([[draws[n, g, t].action for g in range(G)] for n in range(N)], np.int32)
        if space == "latent":
            emitted = np.asarray(world_logits(agent, x, jnp.asarray(actions)))
        for n, g in np.ndindex(N, G):
            if space == "token":
                tokens[n, g, t] = actions[n, g]
            else:
                said = [*ROWS[n].tokens, *tokens[n, g, :t]]
                tokens[n, g, t] = plain.penalised(emitted[n, g], said, sampling.repetition_penalty).argmax()
    hidden, _, _ = forward(agent, jnp.asarray(tokens), jnp.int32(T))
    return Reference(tokens, draws, np.asarray(hidden))


@dataclasses.dataclass
class Case:
    """A rollout whose end-of-turn token is one that occurs, and the reference without a stop."""

    space: LatentActions | TokenActions
    config: RolloutConfig
    out: Rollout
    reference: Reference

    @property
    def mask(self):
        return np.asarray(self.out.mask)


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
            space = action_space(name, with_eos(tiny.agent(), reference.tokens[0, 0, 3]))
            config = settings(sampling)
            made[name, sampling] = Case(space, config, run(space, PROMPTS, IDS, KEY, config), reference)
        return made[name, sampling]

    return get


@pytest.mark.parametrize(("name", "sampling"), CASES)
def test_equals_generation_without_a_cache(case, name, sampling):
    """Everything that is recorded, up to the end; greedy with repetition penalty, sampled, and truncated."""
    case = case(name, sampling)
    reference, out, mask = case.reference, case.out, case.mask
    assert mask[:PADDING_ROW].any(axis=-1).all()
    np.testing.assert_array_equal(np.asarray(out.tokens)[mask], reference.tokens[mask])
    np.testing.assert_array_equal(np.asarray(out.actions)[mask], reference.drawn("action")[mask])
    for field in ("logp", "logp_gap", "entropy"):
        found = np.asarray(getattr(out, {"logp": "logps"}.get(field, field)))
        np.testing.assert_allclose(found[mask], reference.drawn(field)[mask], atol=1e-4)
    np.testing.assert_allclose(np.asarray(out.hidden)[mask], reference.hidden[:, :, P:][mask], atol=1e-4)
    real = np.asarray(PROMPTS.mask)
    np.testing.assert_allclose(np.asarray(out.prompt_hidden)[real], reference.hidden[:, 0, :P][real], atol=1e-4)


@pytest.mark.parametrize(("name", "sampling"), [("latent", SAMPLED["latent"]), ("token", TRUNCATED)])
def test_the_support_holds_the_actions_that_could_be_drawn(case, name, sampling):
    case = case(name, sampling)
    indices, kept = np.asarray(case.out.support.indices), np.asarray(case.out.support.kept)
    sizes = set()
    for n, g, t in np.argwhere(case.mask):
        expected = case.reference.draws[n, g, t].kept
        assert indices[n, g, t][kept[n, g, t]].tolist() == expected
        sizes.add(len(expected))
    assert len(sizes) > 1 or sampling.top_p == 1


@pytest.mark.parametrize("name", ["latent", "token"])
def test_ends_at_the_end_of_turn_token(case, name):
    """It is the last token that counts; pad follows. Prompts of padding only count nowhere."""
    case = case(name, SAMPLED[name])
    eos = case.space.backbone.config.eos_id
    for n, g in np.ndindex(N, G):
        ends = np.flatnonzero(case.reference.tokens[n, g] == eos)
        length = 0 if n == PADDING_ROW else min([*(ends + 1), T])
        assert case.mask[n, g].tolist() == [t < length for t in range(T)]
        assert not np.asarray(case.out.tokens)[n, g, length:].any()
    assert case.mask[0, 0].sum() <= 4
    np.testing.assert_array_equal(case.out.lengths, case.mask.sum(axis=-1))


@pytest.mark.parametrize("name", ["latent", "token"])
def test_recorded_log_probabilities_equal_those_of_the_update(case, name):
    case = case(name, SAMPLED[name])
    if name == "latent":
        logps, entropies = jax.jit(latent_logps, static_argnums=3)(case.space, PROMPTS, case.out, SAMPLED[name])
    else:
        rescore = jax.jit(token_space_logps, static_argnums=3)
        logps, entropies = rescore(case.space.backbone, PROMPTS, case.out, SAMPLED[name])
    np.testing.assert_allclose(np.asarray(logps)[case.mask], np.asarray(case.out.logps)[case.mask], atol=2e-5)
    np.testing.assert_allclose(np.asarray(entropies)[case.mask], np.asarray(case.out.entropy)[case.mask], atol=2e-5)


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
    same(jax.tree.map(lambda x: x[back][:, ::-1], moved.replace(prompt_hidden=moved.hidden)), case.out, case.mask)
    few = jnp.array([PADDING_ROW, 1, PADDING_ROW, 2])
    alone = run(case.space, jax.tree.map(lambda x: x[few], PROMPTS), IDS[few], KEY, case.config)
    for at, n in ((1, 1), (3, 2)):
        np.testing.assert_array_equal(alone.tokens[at], case.out.tokens[n])


def test_without_stop_every_sample_has_full_length_whatever_the_segment(case):
    case = case("token", SAMPLED["token"])
    free = run(case.space, PROMPTS, IDS, KEY, settings(SAMPLED["token"], stop=False, segment=T))
    same(free, case.out.replace(mask=free.mask), case.mask)
    np.testing.assert_array_equal(np.asarray(free.tokens)[:PADDING_ROW], case.reference.tokens[:PADDING_ROW])
    assert np.asarray(free.mask)[:PADDING_ROW].all()


@pytest.mark.parametrize("name", ["latent", "token"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_draws_the_same(case, name, layout):
    """As what is chosen for this device, under which `case` was rolled out."""
    case = case(name, SAMPLED[name])
    assert layout != choose_layout(None)
    same(run(case.space, PROMPTS, IDS, KEY, case.config, layout), case.out, case.mask)


@pytest.mark.parametrize("name", ["latent", "token"])
def test_a_step_computes_its_cosines_once_and_not_in_every_layer(case, name):
    case = case(name, SAMPLED[name])
    program = (
        laid_out.lower(case.space, PROMPTS, IDS, KEY, config=case.config, layout=choose_layout(None))
        .compile()
        .as_text()
    )
    cosines = re.findall(rf"f32\[{N},{G},1,\d+\]\S* cosine\(", program or "")
    assert len(cosines) == 2  # before the loop and in it


def test_other_numbers_or_another_key_draw_other_samples(case):
    case = case("latent", SAMPLED["latent"])
    tokens = np.asarray(case.out.tokens)[:PADDING_ROW]
    for ids, key in ((IDS + 50, KEY), (IDS, jax.random.key(4))):
        other = run(case.space, PROMPTS, ids, key, case.config)
        assert (np.asarray(other.tokens)[:PADDING_ROW] != tokens).any()


@pytest.mark.parametrize("layout", [*LAYOUTS.values(), Layout(True, ALL)], ids=[*LAYOUTS, "joined and apart"])
def test_the_gradient_from_recorded_states_is_that_of_a_full_recomputation(case, layout):
    """The latent update never runs the backbone."""
    case = case("latent", SAMPLED["latent"])
    weight = jnp.asarray(np.where(case.mask, np.random.default_rng(0).normal(size=(N, G, T)), 0).astype(np.float32))
    agent, out, sampling = case.space.agent, case.out, SAMPLED["latent"]

    def score(policy, from_states):
        moved = agent.replace(latent=agent.latent.replace(policy=policy))
        if from_states:
            with use(None, UPDATE, layout):
                logps, _ = latent_logps(LatentActions(moved, Reading()), PROMPTS, out, sampling)
        else:
            _, codes, _ = forward(moved, out.tokens, jnp.int32(T))
            logits = jnp.take_along_axis(codes[:, :, P - 1 : P - 1 + T] / sampling.scale, out.support.indices, axis=-1)
            chosen = out.support.indices == out.actions[..., None]
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
        token_space_logps(case.space.backbone, PROMPTS, case.out, sampling)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"RolloutConfig\.segment must be at least 1, got 0"):
        RolloutConfig(segment=0)
