"""Rollouts whose decode steps hold the backbone in fewer bits: what is recorded, and that updates score the same.

N prompts, G samples of a prompt, P prompt length, T completion length.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.agent import Reading
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.layout import PLAIN, Layout
from lam_jax.nn.stored import StoredLinear
from lam_jax.parallel import ROLLOUT, UPDATE, use
from lam_jax.rollout.actions import HybridActions, LatentActions, TokenActions, next_positions
from lam_jax.rollout.engine import RolloutConfig, rollout
from lam_jax.rollout.rescore import hybrid_logps, latent_logps
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.rollout.steering import SteeredActions, forcing
from tests import tiny
from tests.tiny import Row, make_batch, words

pytestmark = pytest.mark.usefixtures("full_compilation")

N, G, P, T = 2, 3, 12, 6
PROMPTS = make_batch([Row(words(5), ((1, 4, 4),)), Row(words(9, seed=1))], P, left=True)
IDS = jnp.arange(N * G, dtype=jnp.int32).reshape(N, G)
KEY = jax.random.key(3)
SAMPLING = {"latent": SamplingConfig(temperature=0.8, top_k=4), "hybrid": HybridSampling(top_k=4, emission=0.7)}
SPACES = {"latent": (LatentActions, latent_logps), "hybrid": (HybridActions, hybrid_logps)}
LAYOUTS = {"scanned": PLAIN, "apart": Layout(unrolled=2**40), "joined": Layout(joined=True, unrolled=2**40)}


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def rolled_by(space, config, layout):
    with use(None, ROLLOUT, layout):
        return rollout(space, PROMPTS, IDS, KEY, config)


@functools.cache
def rolled(name, weights, layout="joined"):
    config = RolloutConfig(samples=G, length=T, segment=3, sampling=SAMPLING[name], stop=False, weights=weights)
    return jax.device_get(rolled_by(SPACES[name][0](tiny.agent(), Reading()), config, LAYOUTS[layout]))


def meant(kernel):
    """The numbers [.., D, O] that int8 stands for, by NumPy."""
    scale = np.abs(kernel).max(axis=-2, keepdims=True) / 127
    return (np.round(kernel / scale) * scale).astype(np.float32)


def with_meant_blocks(backbone):
    """Every matrix of the blocks so."""
    kernels = {"query", "key", "value", "output", "gate", "up", "down"}

    def replaced(path, leaf):
        names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        return meant(np.asarray(leaf)) if names[-1] == "kernel" and names[-2] in kernels else leaf

    return backbone.replace(blocks=jax.tree_util.tree_map_with_path(replaced, backbone.blocks))


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", ["latent", "hybrid"])
def test_rescored_log_probabilities_are_those_of_the_rollout(name, weights):
    out = rolled(name, weights)
    assert np.abs(out.hidden - rolled(name, "same").hidden).max() > 1e-4  # other weights did draw
    create, score = SPACES[name]

    @functools.partial(jax.jit, static_argnames="layout")
    def rescored(agent, prompts, out, layout):
        with use(None, UPDATE, layout):
            return score(create(agent, Reading()), prompts, out, SAMPLING[name])[0]

    for layout in (PLAIN, LAYOUTS["joined"]):
        np.testing.assert_allclose(rescored(tiny.agent(), PROMPTS, out, layout), out.logps, atol=1e-5)


@pytest.mark.parametrize("name", ["latent", "hybrid"])
def test_layouts_give_the_same_rollout(name):
    one = rolled(name, "int8")
    for layout in ("scanned", "apart"):
        other = rolled(name, "int8", layout)
        np.testing.assert_array_equal(other.tokens, one.tokens)
        np.testing.assert_allclose(other.logps, one.logps, atol=1e-5)
        np.testing.assert_allclose(other.hidden, one.hidden, atol=1e-4)


@pytest.mark.parametrize("name", ["latent", "hybrid"])
def test_states_are_those_of_the_numbers_that_int8_stands_for(name):
    """Prompts are read with the full weights, each token after them with the others."""
    out, backbone = rolled(name, "int8"), tiny.agent().backbone
    np.testing.assert_array_equal(out.prompt_hidden, rolled(name, "same").prompt_hidden)

    @jax.jit
    def states(full, other, prompts, tokens):
        cache, found = KVCache.create(full.prefill(prompts)[1], prompts.mask, G, T, False), []
        for t in range(T):
            rotary = full.rotary(next_positions(prompts, jnp.int32(t), G))
            hidden, cache = other.decode(cache, tokens[:, :, t, None], rotary, jnp.int32(t))
            found.append(hidden[:, :, 0])
        return jnp.stack(found, axis=2)

    expected = states(backbone, with_meant_blocks(backbone), PROMPTS, jnp.asarray(out.tokens))
    np.testing.assert_allclose(out.hidden, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["latent", "hybrid"])
def test_the_head_is_held_so_only_where_no_update_scores_by_it(name):
    agent = tiny.agent()
    space = SPACES[name][0](agent, Reading())
    decoding = jax.jit(lambda space: space.decoding("int8"))(space)
    head = decoding.backbone.packed_head
    assert isinstance(head, StoredLinear) == (name == "latent")
    policy = jax.tree.leaves(decoding.agent.latent.policy)
    assert not any(leaf.dtype == jnp.int8 for leaf in policy)
    if name == "latent":
        table = meant(np.asarray(agent.backbone.table).T)
        states = jnp.asarray(np.random.default_rng(0).normal(size=(5, len(table))).astype(np.float32))
        np.testing.assert_allclose(decoding.backbone.logits(states), np.asarray(states) @ table, atol=1e-4)


def test_steered_actions_pass_it_on():
    agent = tiny.agent()
    bias = forcing(jnp.arange(G), agent.latent.config.codes)
    space = SteeredActions(LatentActions(agent, Reading()), bias).decoding("int8")
    assert isinstance(space.space.backbone.packed_head, StoredLinear)


def test_tokens_are_refused():
    with pytest.raises(ValueError, match="TokenActions with weights in int8: the update scores tokens by the full"):
        TokenActions(tiny.agent().backbone).decoding("int8")
