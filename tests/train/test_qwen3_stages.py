"""Stages and reinforcement learning on a tiny Qwen3-VL: what trains, where DeepStack enters, log-probs recomputed.

N prompts, G samples of a prompt, T completion length.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn.deepstack import DeepStack
from lam_jax.nn.layout import Layout
from lam_jax.nn.weight import path_name
from lam_jax.parallel import TRAIN, use
from lam_jax.rollout.engine import RolloutConfig, rollout
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.train.method import METHODS
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import merge, partition
from lam_jax.train.spaces import SPACES
from lam_jax.train.stages import STAGES, MixedBatch, Step, projector_loss
from lam_jax.train.state import TrainState
from tests import tiny
from tests.tiny import QWEN3, Row, make_batch, words

METHOD = METHODS["default"]
N, G, T = 2, 2, 3
PAIRED = make_batch(
    [Row(words(6), ((1, 4, 4),), 3), Row(words(4, 1), ((1, 2, 2), (1, 2, 4)), 2, seed=1)], 14, config=QWEN3
)
TEXT = make_batch([Row(words(11, 2), response=4), Row(words(5, 3), response=2)], 14, config=QWEN3)
PROMPTS = make_batch(
    [Row(words(5), ((1, 4, 4), (1, 2, 2))), Row(words(6, seed=1), seed=2)], 16, left=True, config=QWEN3
)
JOINED = Layout(joined=True, unrolled=2**40)


def named(agent):
    return {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(agent)}


@pytest.mark.parametrize("name", ["joint", "sft_token"])
def test_a_step_moves_every_weight_of_the_stage_and_no_other(name):
    """Norms of the heads in inverse dynamics, every merger in SFT; blocks that are not the last one stay."""
    agent, stage = tiny.agent(QWEN3), STAGES[name]
    parts = stage.trains(QWEN3, METHOD)
    trainable, frozen = partition(agent, parts)
    optimiser = make_optimiser(OptimiserConfig(lr=1e-3), 10)
    state = TrainState.create(trainable, optimiser, jax.random.key(0))
    state, metrics = Step(stage, frozen, optimiser, METHOD)(state, MixedBatch(PAIRED, TEXT) if stage.mixed else PAIRED)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    before, after = named(agent), named(merge(state.trainable, frozen))
    moved = {leaf for leaf, old in before.items() if (after[leaf] != old).any()}
    # Adding the same to all keys of a head changes nothing, so only the value's part of the fused bias has to move.
    assert moved == {leaf for leaf in before if any(leaf == part or leaf.startswith(f"{part}.") for part in parts)}
    lower = [leaf for leaf in before if leaf.startswith("backbone.blocks.")]
    assert all((after[leaf][:-1] == before[leaf][:-1]).all() for leaf in lower)
    if name == "sft_token":
        features = "backbone.vision.features.mlp.down.kernel"
        assert all((after[features][i] != before[features][i]).any() for i in range(len(before[features])))


def test_features_reach_the_states_with_the_picture_and_not_those_without(monkeypatch):
    """Stage 2 compares both: without DeepStack the states that are seen are others, those withheld the same."""
    seen, withheld = {}, {}
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(DeepStack, "__call__", lambda self, x, layer: x)
        backbone = tiny.agent(QWEN3).backbone
        states = jax.jit(lambda backbone, batch: backbone.states(batch))
        seen[name], withheld[name] = states(backbone, PAIRED), states(backbone, PAIRED.without_images())
    real = np.asarray(PAIRED.valid)
    assert np.abs(np.asarray(seen["with"] - seen["without"]))[real].max() > 1e-3
    np.testing.assert_array_equal(withheld["with"], withheld["without"])


def test_what_is_withheld_is_all_that_stage_2_is_told():
    """Its loss towards the states without a picture does not change with the picture, as its other half does."""
    other = PAIRED.replace(images=PAIRED.images.replace(patches=PAIRED.images.patches + 1))
    agent = tiny.agent(QWEN3)
    # P and P' that say nothing: each half is then a function of the states that it predicts alone.
    quiet = jax.tree.map(jnp.zeros_like, (agent.latent.projector, agent.latent.back_projector))
    agent = agent.replace(latent=agent.latent.replace(projector=quiet[0], back_projector=quiet[1]))
    metrics = jax.jit(lambda batch: projector_loss(agent, batch, None, METHOD)[1])
    one, two = metrics(PAIRED), metrics(other)
    assert float(one["nll_image_to_text"]) == float(two["nll_image_to_text"])
    assert float(one["nll_text_to_image"]) != float(two["nll_text_to_image"])


@functools.cache
def rolled_out(space):
    sampling = {"hybrid": HybridSampling(top_k=4, emission=0.7)}.get(space, SamplingConfig())
    config = RolloutConfig(G, T, sampling, stop=False)
    actions, ids = SPACES[space].actions(tiny.agent(QWEN3), METHOD), jnp.arange(N * G, dtype=jnp.int32).reshape(N, G)
    out = jax.jit(lambda actions, prompts: rollout(actions, prompts, ids, jax.random.key(0), config))(actions, PROMPTS)
    return out, sampling


@pytest.mark.parametrize("space", SPACES)
def test_log_probs_of_an_update_are_those_of_the_rollout(space):
    """The token update runs the prompts with their pictures again, features and all; the latent one no backbone."""
    out, sampling = rolled_out(space)

    @jax.jit
    def again(agent, out):
        with use(None, TRAIN, JOINED):
            return SPACES[space].logps(agent, METHOD, PROMPTS, out, sampling, False)[0]

    np.testing.assert_allclose(again(tiny.agent(QWEN3), out), out.logps, atol=2e-5)


def test_a_token_update_without_features_would_be_seen(monkeypatch):
    out, sampling = rolled_out("token")
    monkeypatch.setattr(DeepStack, "added", lambda self, x, layer: x)
    agent = tiny.agent(QWEN3)
    found = jax.jit(lambda out: SPACES["token"].logps(agent, METHOD, PROMPTS, out, sampling, False)[0])(out)
    difference = np.abs(np.asarray(found - out.logps))
    assert difference[0].max() > 1e-3, "the prompt with pictures"
    assert difference[1].max() < 2e-5
