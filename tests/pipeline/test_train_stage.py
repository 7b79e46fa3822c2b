"""A stage as a phase of a run: what trains, what rests, and batches in several parts."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.latent.agent import Agent
from lam_jax.nn.weight import path_name
from lam_jax.pipeline.stages import train_stage
from lam_jax.recipe import StageSettings
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run
from lam_jax.train.method import METHODS
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.stages import STAGES, MixedBatch, Step
from lam_jax.train.state import TrainState
from tests import tiny
from tests.tiny import Row, make_batch, words
from tests.two_spaces import BOTH

# Rows of one length, but not of one number of valid tokens: a mean of means is not the mean.
ROWS = [Row(words(n, n), ((1, 2, 2),), 2, seed=n) for n in (3, 6, 4, 7)]
METHOD = METHODS["default"]


class Batches:
    """One batch for ever, with a position."""

    def __init__(self, batch):
        self.batch, self.numbers = batch, itertools.count()

    def __iter__(self):
        return self

    def __next__(self):
        next(self.numbers)
        return self.batch

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


def in_dtype(compute_dtype: str) -> Agent:
    """The tiny agent, computing in a dtype; weights of its own, which a phase may use up."""
    agent = jax.tree.map(jnp.copy, tiny.agent())
    config = dataclasses.replace(agent.backbone.config, compute_dtype=compute_dtype)
    return agent.replace(backbone=agent.backbone.replace(config=config))


def named(agent: Agent) -> dict[str, np.ndarray]:
    return {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(agent)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masters_of_frozen_weights_survive_a_phase_bit_for_bit(tmp_path, dtype):
    batch = make_batch(ROWS, 12)
    before = named(tiny.agent())
    with Run(tmp_path, {"dtype": dtype}, Progress(enabled=False)) as run:
        settings = StageSettings(4, OptimiserConfig(1e-2), steps=2)
        agent = train_stage(
            run, BOTH, "stage2", STAGES["projector"], settings, in_dtype(dtype), (Batches(batch), 4), batch
        )
    after = named(agent)
    for name, value in before.items():
        assert after[name].dtype == np.float32
        trained = name.startswith(("latent.projector", "latent.back_projector"))
        assert (after[name] != value).any() == trained, name


def test_a_batch_in_parts_gives_the_mean_of_the_parts_means():
    """Parts are rows i modulo their number; the losses and gradients of each are computed by themselves here."""
    stage, batch = STAGES["projector"], make_batch(ROWS, 12)
    trainable, frozen = partition(tiny.agent(), stage.trains(tiny.CONFIG, METHOD))
    optimiser = make_optimiser(OptimiserConfig(1e-2, clip_norm=1e6), 10)
    step = Step(stage, frozen, optimiser, METHOD, micro_batches=2, accumulation="mean_of_means")
    state, metrics = step(TrainState.create(trainable, optimiser, jax.random.key(0)), batch)

    def loss(part):
        rows = jax.tree.map(lambda x: x[part::2], batch)

        def of(trained):
            return stage.loss(tiny.agent().replace(latent=tiny.agent().latent.replace(**trained)), rows, None, METHOD)[
                0
            ]

        latent = tiny.agent().latent
        return jax.jit(jax.value_and_grad(of))({"projector": latent.projector, "back_projector": latent.back_projector})

    (one, one_gradient), (two, two_gradient) = loss(0), loss(1)
    assert float(metrics["loss"]) == pytest.approx((float(one) + float(two)) / 2, rel=1e-5)
    whole = Step(stage, frozen, optimiser, METHOD).held_out(trainable, batch)
    assert abs(float(whole["loss"]) - float(metrics["loss"])) > 1e-4, "one global mean is something else"
    (moment,) = [
        s.mu for s in jax.tree.leaves(state.optimiser_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")
    ]
    for name in ("projector", "back_projector"):
        mean = jax.tree.map(lambda a, b: (a + b) / 2, one_gradient[name], two_gradient[name])
        for got, want in zip(jax.tree.leaves(getattr(moment.latent, name)), jax.tree.leaves(mean), strict=True):
            np.testing.assert_allclose(got / (1 - 0.9), want, rtol=1e-4, atol=1e-6 * float(abs(want).max()))


# The other metrics of stages 1 and 3 are statistics of the codes of a batch, which parts do not have.
MEANS = {
    *("loss", "ce", "entropy", "ce_paired", "ce_text", "entropy_paired", "entropy_text", "nll", "cycle", "grad_norm"),
    *("nll_text_to_image", "nll_image_to_text", "cloning_paired", "cloning_text", "accuracy_paired", "accuracy_text"),
    *("cloning", "accuracy"),
}
UNEVEN = [Row(words(n, n), ((1, 2, 2),), k, seed=n) for n, k in ((3, 1), (6, 4), (4, 2), (7, 5))]
TEXT = [Row(words(n, n), response=2) for n in (9, 3, 5, 6)]


@pytest.mark.parametrize("name", STAGES)
def test_exact_accumulation_gives_the_whole_batchs_loss_metrics_and_gradients(name):
    """Against the step that takes all rows at once; the rows have 3 to 9 valid tokens."""
    stage, batch = STAGES[name], make_batch(UNEVEN, 12)
    rows = MixedBatch(batch, make_batch(TEXT, 12)) if stage.mixed else batch
    trainable, frozen = partition(tiny.agent(), stage.trains(tiny.CONFIG, METHOD))
    optimiser = make_optimiser(OptimiserConfig(1e-2, clip_norm=1e6), 10)

    def run(parts, **how):
        step = Step(stage, frozen, optimiser, METHOD, micro_batches=parts, **how)
        return step(TrainState.create(trainable, optimiser, jax.random.key(0)), rows)

    (whole, expected), (parts, found) = run(1), run(2)
    assert set(found) == set(expected)
    for metric in set(expected) & MEANS:
        assert float(found[metric]) == pytest.approx(float(expected[metric]), rel=1e-4, abs=1e-6), metric
    for got, want in zip(jax.tree.leaves(moments(parts)), jax.tree.leaves(moments(whole)), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-5 * float(abs(want).max()) + 1e-9)
    _, released = run(2, accumulation="mean_of_means")
    assert abs(float(released["loss"]) - float(expected["loss"])) > 1e-4


def moments(state):
    is_adam = lambda s: hasattr(s, "mu")  # noqa: E731
    return [s.mu for s in jax.tree.leaves(state.optimiser_state, is_leaf=is_adam) if is_adam(s)]


def test_the_best_weights_on_validation_go_on_where_that_is_asked_for(tmp_path):
    """A learning rate at which the loss explodes: the weights before the first step are the best ones."""
    batch, before = make_batch(ROWS, 12), named(tiny.agent())
    moved = {}
    for weights in ("last", "best"):
        settings = StageSettings(4, OptimiserConfig(30.0), steps=3, weights=weights)
        with Run(tmp_path / weights, {"weights": weights}, Progress(enabled=False)) as run:
            agent = train_stage(
                run,
                BOTH,
                "stage2",
                STAGES["projector"],
                settings,
                in_dtype("float32"),
                (Batches(batch), 4),
                batch,
            )
        moved[weights] = any((named(agent)[name] != value).any() for name, value in before.items())
    assert moved == {"last": True, "best": False}
