"""Programs in every layout: the same losses and gradients as in the plain one, and each program takes the one given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn.layout import PLAIN, Layout
from lam_jax.nn.weight import path_name
from lam_jax.parallel import TRAIN, use
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.engine import RolloutConfig, rollout
from lam_jax.train.method import METHODS
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import merge, partition
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import LATENT
from lam_jax.train.stages import STAGES, MixedBatch, Step
from lam_jax.train.state import TrainState
from tests import tiny
from tests.tiny import Row, make_batch, words

METHOD = METHODS["default"]
ROWS = [Row(words(6), ((1, 4, 4),), 3), Row(words(4, 1), ((1, 2, 2),), 2, seed=1)]
PAIRED = make_batch(ROWS, 12)
MIXED = MixedBatch(PAIRED, make_batch([Row(words(11, 2), response=4), Row(words(5, 3), response=2)], 12))
ALL = 2**40  # weights: stacks of any size are unrolled
LAYOUTS = {"unrolled": Layout(unrolled=ALL), "joined": Layout(joined=True), "both": Layout(joined=True, unrolled=ALL)}


@pytest.fixture(scope="module", params=[("joint", MIXED), ("sft_latent", PAIRED)], ids=["joint", "sft_latent"])
def gradient(request):
    """Of a stage's loss, by layout."""
    name, batch = request.param
    trainable, frozen = partition(tiny.agent(), STAGES[name].trains(tiny.CONFIG, METHOD))

    def found(layout):
        @jax.jit
        def compute(trainable):
            with use(None, TRAIN, layout):
                return jax.value_and_grad(lambda part: STAGES[name].loss(merge(part, frozen), batch, None, METHOD)[0])(
                    trainable
                )

        return compute(trainable)

    return found, found(PLAIN)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_loss_and_gradient_are_those_of_the_plain_layout(gradient, layout):
    found, (expected, slopes) = gradient
    loss, moved = found(layout)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(slopes), jax.tree.leaves(moved), strict=True):
        size = float(abs(want).max())
        assert size > 0, path_name(path)
        np.testing.assert_allclose(got, want, atol=1e-5 * size, err_msg=path_name(path))


def test_a_step_is_traced_in_the_layout_it_is_given():
    trainable, frozen = partition(tiny.agent(), STAGES["sft_latent"].trains(tiny.CONFIG, METHOD))
    optimiser = make_optimiser(OptimiserConfig(lr=1e-3), 10)
    state = TrainState.create(trainable, optimiser, jax.random.key(0))

    def traced(layout):
        return Step(STAGES["sft_latent"], frozen, optimiser, METHOD, layout).trace(state, PAIRED)

    plain, unrolled, chosen = (str(traced(layout).jaxpr) for layout in (PLAIN, LAYOUTS["both"], None))
    assert chosen == unrolled != plain


def test_an_update_is_traced_in_the_layout_it_is_given():
    config = RLConfig(ALGORITHMS["grpo"], LATENT, prompts=2, rollout=RolloutConfig(samples=2, length=3, segment=3))
    trainable, frozen = partition(tiny.agent(), LATENT.trains(tiny.CONFIG, METHOD))
    optimiser = make_optimiser(OptimiserConfig(lr=1e-3), 10)
    state = TrainState.create(trainable, optimiser, jax.random.key(0))
    prompts, ids = make_batch(ROWS, 12, left=True), jnp.zeros((2, 2), jnp.int32)
    out = jax.eval_shape(
        lambda agent: rollout(LATENT.actions(agent, METHOD), prompts, ids, state.key, config.rollout),
        tiny.agent(),
    )
    batch = RLBatch(prompts, out, jnp.zeros((2, 2)), out.mask)

    def traced(layout):
        return Update(config, METHOD, optimiser, frozen, trainable, layout).trace(state, batch)

    plain, unrolled, chosen = (str(traced(layout).jaxpr) for layout in (PLAIN, LAYOUTS["both"], None))
    assert chosen == unrolled != plain
