"""Qwen3-VL on 8 host devices: states, gradients and rollouts equal those of one device. N prompts, G samples."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from lam_jax.latent.agent import Agent
from lam_jax.nn.layout import Layout
from lam_jax.parallel import TRAIN, make_mesh, place, shardings, use
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.rollout.engine import Rollout, RolloutConfig
from lam_jax.rollout.run import run_rollout
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import METHODS
from lam_jax.train.spaces import SPACES
from tests import tiny
from tests.sharding.made import MESHES
from tests.tiny import QWEN3, Row, make_batch, words

# Of 4 tensor shards: one head each, half a kv head and no whole vision head, which are replicated.
ROWS = [
    Row(words(4 + i % 5, i), (((1, 4, 4),), ((1, 2, 2), (1, 2, 4)), (), ((1, 2, 4),))[i % 4], seed=i) for i in range(8)
]
N, G, T = 4, 2, 4


@functools.cache
def agent(name: str) -> Agent:
    specs = Agent.spec(QWEN3, tiny.LATENT)
    whole = jax.tree.map(np.asarray, tiny.agent(QWEN3))
    return jax.device_put(whole, shardings(specs, make_mesh(MESHES[name]), TRAIN))


@functools.partial(jax.jit, static_argnames=("mesh", "layout"))
def loss_and_gradient(backbone: Any, batch: Any, mesh: Mesh, layout: Layout) -> Any:
    def loss(backbone: Any) -> jax.Array:
        with use(mesh, TRAIN, layout):
            states = backbone.states(batch)
            return jnp.sum(jnp.where(batch.mask[..., None], jnp.sin(states), 0.0)), states

    return jax.value_and_grad(loss, has_aux=True)(backbone)


@functools.cache
def trained(name: str) -> Any:
    mesh = make_mesh(MESHES[name])
    batch = place(jax.tree.map(np.asarray, make_batch(ROWS, 16, config=QWEN3)), mesh, TRAIN)
    layout = dataclasses.replace(choose_layout(mesh), unrolled=0)  # as of large models, whose layers are scanned
    return loss_and_gradient(agent(name).backbone, batch, mesh, layout), batch.mask


@pytest.mark.parametrize("name", ["all", pytest.param("tensor", marks=pytest.mark.sharding)])
def test_states_and_gradients(name):
    ((one, ours), gradient), mask = trained("one")
    ((two, theirs), sharded), _ = trained(name)
    assert float(one) == pytest.approx(float(two), rel=1e-5)
    real = np.asarray(mask)
    np.testing.assert_allclose(np.asarray(ours)[real], np.asarray(theirs)[real], atol=2e-5)
    pairs = zip(jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(sharded), strict=True)
    for (path, a), b in pairs:
        scale = float(np.abs(a).max()) or 1.0
        np.testing.assert_allclose(a / scale, np.asarray(b) / scale, atol=3e-5, err_msg=jax.tree_util.keystr(path))


@functools.cache
def rolled_out(space: str, name: str) -> Rollout:
    actions = SPACES[space].actions(agent(name), METHODS["default"])
    prompts = jax.tree.map(np.asarray, make_batch(ROWS[:N], 16, left=True, config=QWEN3))
    ids = np.arange(N * G, dtype=np.int32).reshape(N, G)
    config = RolloutConfig(G, T, SamplingConfig(temperature=0.8), stop=False, segment=T)
    return jax.tree.map(np.asarray, run_rollout(actions, prompts, ids, jax.random.key(3), config))


@pytest.mark.parametrize("space", [pytest.param("latent", marks=pytest.mark.sharding), "token"])
def test_rollouts(space):
    one, two = rolled_out(space, "one"), rolled_out(space, "all")
    np.testing.assert_array_equal(one.tokens, two.tokens)
    np.testing.assert_allclose(one.logps, two.logps, atol=1e-4)
    np.testing.assert_allclose(one.hidden, two.hidden, atol=1e-4)
