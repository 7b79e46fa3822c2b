"""Rollouts with every way to compute a decode step's layer, interpreted, equal to the plain ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.gpu import decode_attention as attention
from lam_jax.gpu.decode_layer import DecodeLayer
from lam_jax.gpu.parts import Parts
from lam_jax.gpu.tiles import MOST_ROWS, Tiles, choose_tiles
from lam_jax.latent.agent import Reading
from lam_jax.nn import kv_cache
from lam_jax.nn.layers import Linear
from lam_jax.nn.layout import PLAIN, Layout
from lam_jax.nn.weight import materialize
from lam_jax.rollout.actions import LatentActions, TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import jitted
from lam_jax.rollout.sampling import SamplingConfig
from tests import tiny
from tests.tiny import Row, make_batch, words

OURS = Tiles(columns=16, depth=16, splits=2)
ATTENTION = attention.Tiles(8, 2, 8, 2)
WAYS = {
    "maps": DecodeLayer(None, None, None),
    "XLA's norms": DecodeLayer(None, None, OURS, add_norm=False),
    "kernels": DecodeLayer(OURS, OURS, OURS, early=True),
    "chosen": DecodeLayer(),
}


@pytest.fixture
def calls(monkeypatch):
    """Of `complete`, in layers whose heads of 8 a GPU would not take; while a rollout is traced."""
    calls, complete = [], DecodeLayer.complete
    monkeypatch.setattr(DecodeLayer, "complete", lambda *given: calls.append(given) or complete(*given))
    monkeypatch.setattr(kv_cache, "_fits", lambda dim: True)
    return calls


@pytest.mark.parametrize("space", ["latent", "token"])
@pytest.mark.parametrize("way", WAYS)
def test_a_rollout_is_the_plain_one(space, way, calls):
    found, plain = _rollout(space, dataclasses.replace(WAYS[way], attention=ATTENTION, interpret=True)), _plain(space)
    assert len(calls) > 2  # both norms of several layers
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_allclose(found.logps, plain.logps, atol=1e-5)
    np.testing.assert_allclose(found.hidden, plain.hidden, atol=1e-4)


def test_in_a_scan_of_layers_too(calls):
    layer = dataclasses.replace(WAYS["kernels"], attention=ATTENTION, interpret=True)
    found, plain = _rollout("token", layer, unrolled=0), _plain("token")
    assert len(calls) == 2
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_allclose(found.logps, plain.logps, atol=1e-5)


@pytest.mark.parametrize("way", ["XLA's norms", "kernels"])
def test_queries_and_keys_with_norms_of_their_heads(way, calls):
    """Qwen3's blocks: between the product and the attention's kernel, in policy and backbone."""
    layer = dataclasses.replace(WAYS[way], attention=ATTENTION, interpret=True)
    found, plain = (_rollout("latent", one, config=tiny.QWEN3) for one in (layer, None))
    assert len(calls) > 2
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_allclose(found.logps, plain.logps, atol=1e-5)
    np.testing.assert_allclose(found.hidden, plain.hidden, atol=1e-4)


def _rollout(space, layer, unrolled=2**40, config=tiny.CONFIG):
    layout = PLAIN if layer is None else Layout(joined=True, unrolled=unrolled, decode_layer=layer)
    agent = tiny.agent(config)
    actions = LatentActions(agent, Reading()) if space == "latent" else TokenActions(agent.backbone)
    prompts = make_batch([Row(words(5), ((1, 4, 4),)), Row(words(9, seed=1))], 12, left=True, config=config)
    how = RolloutConfig(samples=2, length=9, segment=5, sampling=SamplingConfig(top_k=4), stop=False)
    ids = jnp.arange(4, dtype=jnp.int32).reshape(2, 2)
    return jitted(actions, prompts, ids, jax.random.key(3), config=how, mesh=None, layout=layout)


@functools.cache
def _plain(space):
    return _rollout(space, None)


@pytest.mark.parametrize("way", [None, OURS, choose_tiles])
@pytest.mark.parametrize("rows", [3, MOST_ROWS + 1])
def test_a_product_is_the_map(way, rows):
    linear = materialize(Linear.spec(64, 48, (None, None), bias=True), jax.random.key(0)).replace(bias=jnp.arange(48.0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(rows, 1, 1, 64)), jnp.float32)
    parts = DecodeLayer(output=way, interpret=True).product("output", linear, x)
    assert isinstance(parts, Parts)
    assert parts.sums.shape[0] == (2 if way == OURS and rows == 3 else 1)
    np.testing.assert_allclose(parts.whole(x.dtype), linear(x), rtol=1e-5, atol=1e-5)
