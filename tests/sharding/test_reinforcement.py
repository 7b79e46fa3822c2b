"""Whole steps of stage 6 on meshes: rollout, reward, refill, updates. N prompts, G samples of a prompt."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from lam_jax.data.collator import Collated, Cuts
from lam_jax.data.schemas import Example
from lam_jax.latent.agent import Agent
from lam_jax.parallel import ROLLOUT, mesh_of, shardings
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.parallel.mesh import reshaped
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.weights import rollout_weights
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_held import Frozen, hold_frozen
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES
from lam_jax.train.state import TrainState
from tests import tiny
from tests.made_reward import as_reward
from tests.sharding import made
from tests.sharding.made import CONFIG, METHOD, G, N

EXAMPLE = Example("row", ({"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}))
PROMPTS = Collated(jax.tree.map(np.asarray, made.PROMPTS), (EXAMPLE,) * N, Cuts())


class Numbers:
    """A tokenizer whose words are the token numbers."""

    def batch_decode(self, group, skip_special_tokens):
        return [" ".join(str(int(token)) for token in row if token >= tiny.FIRST_WORD) for row in group]


class Reward:
    """Share of even tokens, in fixed directions within a group; in the first call two groups are all alike."""

    def __init__(self):
        self.calls = itertools.count()

    def __call__(self, examples, answers, samples):
        assert len(examples) == len(answers) == N
        rewards = np.array([[np.mean([int(w) % 2 == 0 for w in a.split()] or [0]) for a in group] for group in answers])
        rewards = rewards + np.arange(G)
        if next(self.calls) == 0:
            rewards[[1, 4]] = 1.0
        return as_reward(lambda *_: rewards)(examples, answers, samples)


def settings(space, weights="same", **changes) -> RLConfig:
    algorithm = dataclasses.replace(ALGORITHMS["dapo"], dynamic_sampling_std=0.1, beta=0.1)
    rollout = dataclasses.replace(made.rollout_config(space), weights=weights)
    optimiser = OptimiserConfig(lr=1e-3)
    changes = {"epochs": 2} | changes
    return RLConfig(algorithm, SPACES[space], prompts=N, rollout=rollout, optimiser=optimiser, **changes)


def rl_step(space, mesh, refills=PROMPTS, held=False, rollouts=None, observe=None, **changes):
    """`held`: with layers apart, as on GPUs; `rollouts`: sizes of a mesh of their own."""
    config = settings(space, **changes)
    trainable, frozen = partition(made.agent(mesh), config.space.trains(CONFIG, METHOD))
    optimiser = make_optimiser(config.optimiser, 10)
    halves = Frozen(frozen, frozen)
    if held or rollouts:
        layout = dataclasses.replace(choose_layout(mesh), kept_apart=held)
        on = reshaped(mesh, rollouts) if rollouts else None
        halves = hold_frozen(frozen, config.space, layout, (lambda leaf: None) if held else None, on)
    collect = Collector(
        *(config, METHOD, halves.rollouts, Reward(), Decoder(Numbers()), itertools.repeat(refills)),
        observe=observe,
        mesh=mesh_of(frozen),
    )
    step = RLStep(collect, Update(config, METHOD, optimiser, halves.updates, trainable))
    return step, TrainState.create(trainable, optimiser, jax.random.key(1))


def train(space, mesh, refills=PROMPTS, **changes):
    step, state = rl_step(space, mesh, refills, **changes)
    history = []
    for _ in range(2):
        state, metrics = step(state, PROMPTS)
        history.append({k: float(v) for k, v in metrics.items() if not k.endswith(("_s", "per_s"))})
    return history, state


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["data", "all", "tensor"])
@pytest.mark.parametrize("space", ["latent", "hybrid", "token"])
def test_every_mesh_learns_the_same(space, mesh):
    """Six prompts are filled up to eight on eight data shards: the filling neither counts nor is refilled."""
    expected, _ = train(space, made.on("one"))
    found, _ = train(space, made.on(mesh))
    assert expected[0]["refills"] == 1
    for one, many in zip(expected, found, strict=True):
        for name, value in one.items():
            assert many[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


@pytest.mark.sharding
@pytest.mark.parametrize("space", ["latent", "hybrid"])
def test_rollouts_in_int8_learn_the_same_on_a_mesh(space):
    """Scales are those of whole columns, also where a matrix lies in shards of its rows."""
    expected, _ = train(space, made.on("one"), weights="int8")
    found, _ = train(space, made.on("all"), weights="int8")
    assert expected != train(space, made.on("one"))[0]
    for one, many in zip(expected, found, strict=True):
        for name, value in one.items():
            assert many[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["all", "tensor"])
@pytest.mark.parametrize(("space", "weights"), [("latent", "same"), ("latent", "int8"), ("hybrid", "same")])
def test_layers_apart_learn_the_same_on_a_mesh(space, weights, mesh):
    expected, _ = train(space, made.on("one"), weights=weights)
    found, _ = train(space, made.on(mesh), held=True, weights=weights)
    for one, many in zip(expected, found, strict=True):
        for name, value in one.items():
            assert many[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


@pytest.mark.sharding
def test_mini_batches_are_the_same_on_a_mesh():
    expected, _ = train("latent", made.on("one"), mini_batches=3)
    found, _ = train("latent", made.on("all"), mini_batches=3)
    for one, many in zip(expected, found, strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-5)


def test_mini_batches_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"2 mini-batches of 3 prompts do not divide over data = 8.*multiple of 16"):
        rl_step("latent", made.on("data"), mini_batches=2)


LONGER = Collated(
    jax.tree.map(
        np.asarray, tiny.make_batch([tiny.Row(made.words(9 + i % 4, 70 + i)) for i in range(N)], 14, left=True)
    ),
    (EXAMPLE,) * N,
    Cuts(),
)


@pytest.mark.sharding
@pytest.mark.parametrize("space", ["latent", "token"])
def test_refills_of_another_bucket_are_the_same_on_a_mesh(space):
    """The refills' prompts are longer than the first ones and have no pictures."""
    expected, _ = train(space, made.on("one"), LONGER)
    found, _ = train(space, made.on("all"), LONGER)
    assert expected[0]["refills"] == 1
    for one, many in zip(expected, found, strict=True):
        for name, value in one.items():
            assert many[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["data", "all"])
def test_a_step_without_a_signal_moves_nothing_on_a_mesh(mesh):
    """After an ordinary step, whose momentum would move the weights; two updates, in two micro-batches on one mesh."""
    parts = {"micro_batches": 1 if mesh == "data" else 3}
    step, state = rl_step("latent", made.on(mesh), **parts)
    state, _ = step(state, PROMPTS)
    before = jax.device_get((state.trainable, state.optimiser_state))
    step.collect.reward = as_reward(lambda *_: (np.zeros((N, G)), np.zeros((N, G), bool)))
    step.collect.refill = itertools.repeat(PROMPTS)
    state, metrics = step(state, PROMPTS)
    assert metrics["skipped_updates"] == 2
    for old, new in zip(
        jax.tree.leaves(before), jax.tree.leaves((state.trainable, state.optimiser_state)), strict=True
    ):
        np.testing.assert_array_equal(old, np.asarray(new))
    step.collect.reward = Reward()
    state, metrics = step(state, PROMPTS)
    assert (metrics["skipped_updates"], int(state.step)) == (0, 6)


def shown_by(space, mesh, **changes):
    """Tokens, actions, log-probabilities and masks of the rollouts of two steps, and history and state after them."""
    shown = []

    def observe(attempt):
        out = attempt.rollout
        shown.append(jax.device_get([x[:N] for x in (out.tokens, out.actions, out.mask, out.logps)]))

    history, state = train(space, mesh, observe=observe, **changes)
    return shown, history, state


def assert_same_steps(found, expected):
    """Draws and history as on one device, but for rounding; and the weights that two steps have made of it."""
    for one, many in zip(expected[0], found[0], strict=True):
        for x, y in zip(one[:3], many[:3]):
            np.testing.assert_array_equal(y, x)
        np.testing.assert_allclose(many[3], one[3], atol=1e-5)
    for one, many in zip(expected[1], found[1], strict=True):
        for name, value in one.items():
            assert many[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for one, many in zip(*(jax.tree.leaves(jax.device_get(done[2].trainable)) for done in (expected, found))):
        np.testing.assert_allclose(many, one, atol=2e-4)


@pytest.mark.sharding
@pytest.mark.parametrize(
    ("space", "mesh", "rollouts"),
    [
        ("latent", "all", (2, 1, 4)),
        ("latent", "data", (1, 2, 4)),
        ("latent", "tensor", (4, 2, 1)),  # eight prompts are drawn for six, and six go into the update
        ("hybrid", "data", (2, 1, 4)),
        ("token", "all", (2, 1, 4)),
        ("latent", "all", (2, 1, 2, 2)),
        ("latent", "data", (4, 1, 2, 1)),
        ("hybrid", "all", (2, 1, 2, 2)),
        ("token", "data", (2, 1, 2, 2)),
    ],
)
def test_rollouts_on_a_mesh_of_their_own_learn_the_same(space, mesh, rollouts):
    """The same draws as on one device, and after two steps the same weights; refills and filled-up prompts included."""
    assert_same_steps(shown_by(space, made.on(mesh), rollouts=rollouts), shown_by(space, made.on("one")))


@pytest.mark.sharding
def test_rollouts_of_another_mesh_in_mini_batches_of_another_bucket():
    """Refills' prompts are longer than the first ones; batches of both meshes come together."""
    expected, _ = train("latent", made.on("one"), LONGER, mini_batches=3)
    found, _ = train("latent", made.on("all"), LONGER, mini_batches=3, rollouts=(4, 1, 2))
    for one, many in zip(expected, found, strict=True):
        for name, value in one.items():
            assert many[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_weights_lie_on_the_mesh_of_rollouts_and_batches_on_that_of_training():
    mesh = made.on("data")
    step, state = rl_step("latent", mesh, rollouts=(1, 2, 4))
    other = step.collect.rollout_mesh
    actions = step.collect.actions(state)
    expected = shardings(Agent.spec(CONFIG, made.LATENT), other, ROLLOUT)
    for leaf, sharding in zip(jax.tree.leaves(actions.agent), jax.tree.leaves(expected), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    prompts, out = step.collect.roll_out(state, PROMPTS.batch, state.step_key())
    assert mesh_of(actions) == other != mesh
    for part in (prompts, out):
        assert {leaf.sharding.mesh for leaf in jax.tree.leaves(part)} == {mesh}
    assert out.tokens.shape[0] == len(prompts.tokens) == 8


def test_nothing_is_copied_where_a_weight_lies_alike_on_both_meshes():
    """On (2, 2, 2) and on (4, 1, 2) `tensor` shards alike, so that the meshes share the memory of bfloat16 weights."""
    mesh = made.on("all")
    specs = Agent.spec(CONFIG, made.LATENT)
    kept = rollout_weights(made.agent(mesh), specs, np.float32)
    shared = rollout_weights(kept, specs, np.float32, on=reshaped(mesh, (4, 1, 2)))
    pairs = list(zip(jax.tree.leaves(kept), jax.tree.leaves(shared), strict=True))
    alike = [one.sharding.is_equivalent_to(other.sharding, one.ndim) for one, other in pairs]
    assert any(alike)
    for same, (one, other) in zip(alike, pairs):
        places = [[s.data.unsafe_buffer_pointer() for s in x.addressable_shards] for x in (one, other)]
        assert not same or places[0] == places[1]
        np.testing.assert_array_equal(one, other)
