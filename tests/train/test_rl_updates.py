"""One policy update against method.md section 4 written down plainly: loss, metrics and the gradient of every weight.

The rollout is written down by the test. N prompts, G samples of a prompt, T completion length, S support slots.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from lam_jax.latent.agent import Reading
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.train.method import METHODS, Method
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.partition import merge
from lam_jax.train.rl import RLConfig
from lam_jax.train.spaces import SPACES
from tests import tiny
from tests.tiny import Row, words
from tests.train import plain_rl
from tests.train.made_rl import (
    Actions,
    agent_of,
    apply,
    batch_of,
    collated,
    filled,
    gradient,
    make_with,
    moved_state,
    named,
)

N, G, T, S = 2, 4, 5, 6
BETA, LOW, HIGH = 0.3, 0.2, 0.2
LENGTHS = np.array([[5, 3, 1, 4], [2, 5, 5, 3]])
# One failed call, which leaves its sample out.
REWARDS = np.array([[1.0, 2.0, 4.0, 1.5], [3.0, 99.0, 0.0, 1.0]])
OK = np.array([[True] * 4, [True, False, True, True]])
ROWS = [Row(words(4, 0), ((1, 2, 2),)), Row(words(6, 1))]
TOP = {"top_k": S, "temperature": 0.8}


def settings(space, name, sampling, epochs=2, mini_batches=1, official=False) -> RLConfig:
    """No clipping of gradients, which are then read from Adam's first moment."""
    algorithm = ALGORITHMS[name].official() if official else ALGORITHMS[name]
    return RLConfig(
        dataclasses.replace(algorithm, beta=BETA),
        SPACES[space],
        prompts=N,
        rollout=RolloutConfig(samples=G, length=T, sampling=sampling),
        epochs=epochs,
        mini_batches=mini_batches,
        optimiser=OptimiserConfig(lr=1e-3, clip_norm=1e9),
    )


def written_down(space, truncated) -> Actions:
    """Any tokens and actions, and sets that hold them; of some sets the last slot was cut."""
    rng = np.random.default_rng(5)
    shape = (N, G, T)
    mask = np.arange(T) < LENGTHS[..., None]
    tokens = np.where(mask, rng.integers(tiny.FIRST_WORD, tiny.VOCAB, shape), tiny.PAD).astype(np.int32)
    count = tiny.VOCAB if space == "token" else tiny.LATENT.codes
    actions = tokens if space == "token" else rng.integers(0, count, shape).astype(np.int32)
    if not truncated:
        return Actions(tokens, actions, mask)
    indices = np.argsort(rng.random((*shape, count)), axis=-1)[..., :S].astype(np.int32)
    there = (indices == actions[..., None]).any(axis=-1)
    indices[..., 1] = np.where(there, indices[..., 1], actions)
    kept = np.ones(indices.shape, bool)
    kept[..., -1] = (indices[..., -1] == actions) | (rng.random(shape) < 0.5)
    return Actions(tokens, actions, mask, indices, kept)


def plain_logps(agent, prompts, taken, space, temperature, project, emission):
    """Log-probabilities [N, G, T] of the actions, from whole rows; in the hybrid space with those of the tokens."""
    args = (agent, prompts, taken.tokens, taken.mask)
    logits = plain_rl.token_logits(*args) if space == "token" else plain_rl.code_logits(*args, project)
    found = plain_rl.logps(logits, taken.actions, taken.indices, taken.kept, temperature)
    if space != "hybrid":
        return found
    x = plain_rl.chosen_from(plain_rl.merge_input(*args, project), prompts)
    emitted = plain_rl.world_logits(agent, x, taken.actions, "merged")
    return found + plain_rl.logps(emitted, taken.tokens, temperature=emission)


HOW = ("space", "temperature", "project", "emission")


@functools.partial(jax.jit, static_argnames=HOW)
def jitted_logps(trainable, frozen, prompts, taken, **how):
    """`plain_logps` of an agent in two parts."""
    return plain_logps(merge(trainable, frozen), prompts, taken, **how)


@functools.partial(jax.jit, static_argnames=HOW)
def pulled_back(trainable, frozen, prompts, taken, weight, **how):
    """Gradient of the weighted sum of `plain_logps`."""
    return jax.vjp(lambda part: plain_logps(merge(part, frozen), prompts, taken, **how), trainable)[1](weight)[0]


@functools.cache
def made_step(config: RLConfig, method: Method):
    return make_with(config, method=method)


class Case:
    """An update of a policy that has moved away from the reference, and from the one that rolled out."""

    def __init__(self, config: RLConfig, method: Method = METHODS["default"], project=True):
        self.config, sampling, algorithm = config, config.rollout.sampling, config.algorithm
        self.step, create = made_step(config, method)
        self.state = moved_state(self.step, create)
        self.prompts = collated(ROWS).batch
        self.taken = written_down(config.space.name, sampling.truncates and sampling.renormalise)
        self.how = {"space": config.space.name, "temperature": sampling.temperature, "project": project}
        self.how["emission"] = sampling.emission
        self.now, self.ref = (
            np.asarray(self.logps(part)) for part in (self.state.trainable, self.step.update.reference)
        )
        # Some way inside or outside of the clipping range, never at its edge.
        shifts = np.random.default_rng(6).choice([-0.5, -0.3, -0.1, 0.1, 0.3, 0.5], self.now.shape)
        self.old = self.now + shifts.astype(np.float32)
        ok = OK if algorithm.failed_calls == "drop" else np.ones_like(OK)
        self.advantages, self.active = plain_rl.advantages(REWARDS, ok, algorithm.advantage)
        self.mask = self.taken.mask & self.active[..., None]

    def logps(self, trainable, **changes):
        """The plain log-probabilities of the actions."""
        return jitted_logps(trainable, self.step.update.frozen, self.prompts, self.taken, **self.how | changes)

    def run(self, recorded=None, index=0, filling=()):
        """(metrics, gradient by weight) of the library's update; `filling` are prompts that fill up a mesh."""
        recorded = self.old if recorded is None else recorded
        batch = batch_of(agent_of(self.step), self.prompts, self.taken, recorded, self.advantages, self.active)
        if filling:
            batch = filled(batch, collated([*ROWS, *filling]).batch)
        copy = jax.tree.map(lambda x: x.copy(), self.state)
        state, metrics = apply(self.step, copy, batch, index)
        return {k: float(v) for k, v in metrics.items()}, gradient(self.step, state)

    def loss(self, logps, old=None, rows=slice(0, N)):
        """The plain loss of the prompts `rows`."""
        changes = {"max_length": T} if self.config.algorithm.normaliser == "max_length" else {}
        old = self.old if old is None else old
        arrays = (x[rows] for x in (logps, old, self.ref, self.advantages, self.mask))
        sequences = self.advantages[rows].size
        return plain_rl.loss(*arrays, beta=BETA, low=LOW, high=HIGH, sequences=sequences, **changes)

    def gradient(self, old=None):
        """Of the plain loss, with respect to every trained weight."""
        weight = jax.grad(self.loss)(self.now, old)
        return named(
            pulled_back(self.state.trainable, self.step.update.frozen, self.prompts, self.taken, weight, **self.how)
        )


def same_gradient(found, expected):
    assert found.keys() == expected.keys()
    assert max(abs(x).max() for x in expected.values()) > 1e-3
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, atol=1e-4 * max(0.1, abs(want).max()), err_msg=name)


@pytest.mark.parametrize(
    ("space", "name", "sampling"),
    [
        ("latent", "grpo", SamplingConfig(**TOP)),
        ("latent", "dr_grpo", SamplingConfig(**TOP)),
        ("hybrid", "grpo", HybridSampling(**TOP, emission=0.6)),
        ("token", "grpo", SamplingConfig(temperature=0.9)),
        ("token", "dr_grpo", SamplingConfig(**TOP)),
    ],
)
def test_whole_update(space, name, sampling):
    """Ratios to the recorded log-probabilities, clipping, k3, normaliser; the failed sample counts as a sequence."""
    case = Case(settings(space, name, sampling))
    metrics, found = case.run()
    low, high = plain_rl.clipped(case.now, case.old, case.advantages, case.mask, LOW, HIGH)
    assert low > 0
    assert high > 0
    assert metrics["loss"] == pytest.approx(float(case.loss(case.now)), rel=1e-4, abs=1e-5)
    assert metrics["clip_fraction_low"] == pytest.approx(low, abs=1e-6)
    assert metrics["clip_fraction_high"] == pytest.approx(high, abs=1e-6)
    d = (case.ref - case.now)[case.mask]
    assert metrics["kl"] == pytest.approx(float(np.mean(np.exp(d) - d - 1)), rel=1e-3)
    assert metrics["ratio_mean"] == pytest.approx(float(np.exp(case.now - case.old)[case.mask].mean()), rel=1e-4)
    same_gradient(found, case.gradient())


@pytest.mark.parametrize("shares", [{"epochs": 2}, {"epochs": 1, "mini_batches": 2}])
def test_several_updates_of_a_rollout_are_against_its_recorded_log_probabilities(shares):
    """Whatever they are, and in every share of the prompts: those of the second prompt in the second share."""
    case = Case(settings("latent", "grpo", SamplingConfig(**TOP), **shares))
    parts = shares.get("mini_batches", 1)
    other = case.now + np.float32(0.6)
    for index, recorded in ((0, case.old), (parts - 1, other)):
        rows = slice(0, N) if parts == 1 else slice(index, index + 1)
        metrics, _ = case.run(recorded, index)
        ratios = np.exp(case.now - recorded)[rows][case.mask[rows]]
        assert metrics["ratio_mean"] == pytest.approx(float(ratios.mean()), rel=1e-4)
        assert metrics["ratio_max"] == pytest.approx(float(ratios.max()), rel=1e-4)
        assert metrics["loss"] == pytest.approx(float(case.loss(case.now, recorded, rows)), rel=1e-4, abs=1e-5)
    assert metrics["ratio_max"] == pytest.approx(np.exp(-0.6), rel=1e-4)


@pytest.mark.parametrize(("name", "space"), [("grpo", "latent"), ("dr_grpo", "token"), ("dapo", "latent")])
def test_parts_of_an_update_add_up_to_the_whole(name, space):
    """The prompts have different numbers of tokens; a prompt a part, and two parts of which one is filling."""
    config = settings(space, name, SamplingConfig(**TOP) if space == "latent" else SamplingConfig(temperature=0.9))
    expected, gradients = Case(config).run()
    case = Case(dataclasses.replace(config, micro_batches=2))
    for filling in ((), (Row(()), Row(()))):
        metrics, found = case.run(filling=filling)
        for metric in ("loss", "kl", "clip_fraction_low", "clip_fraction_high", "ratio_mean", "ratio_max", "entropy"):
            assert metrics[metric] == pytest.approx(expected[metric], rel=1e-4, abs=1e-6), metric
        same_gradient(found, gradients)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo"])
def test_prompts_that_fill_up_a_mesh_count_nowhere(name):
    """Loss and gradient are those of the real prompts: the filling is none of the sequences that are divided by."""
    case = Case(settings("latent", name, SamplingConfig(**TOP)))
    metrics, found = case.run(filling=[Row(()), Row(())])
    assert metrics["loss"] == pytest.approx(float(case.loss(case.now)), rel=1e-4, abs=1e-5)
    same_gradient(found, case.gradient())


def test_whole_official_update():
    """One update: r is 1 whatever was recorded. All codes are scored, the policy reads mu_P(e) on the row without an
    image, and the final norm trains."""
    config = settings("latent", "grpo", SamplingConfig(**TOP).official(), epochs=1, official=True)
    case = Case(config, METHODS["official"])
    metrics, found = case.run()
    other = np.asarray(case.logps(case.state.trainable, project=False))
    assert abs(other - case.now)[1][case.mask[1]].max() > 0.01
    np.testing.assert_allclose(other[0][case.mask[0]], case.now[0][case.mask[0]], atol=1e-5)
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-6)
    assert metrics["loss"] == pytest.approx(float(case.loss(case.now, case.now)), rel=1e-4, abs=1e-5)
    expected = case.gradient(case.now)
    assert abs(expected["backbone.norm.scale"]).max() > 1e-4
    same_gradient(found, expected)


def test_the_update_reads_states_as_acting_says():
    """Here the policy acts without the projector, with which it learned and generates."""
    method = Method(acting=Reading(project=False))
    case = Case(settings("latent", "grpo", SamplingConfig(**TOP)), method, project=False)
    metrics, _ = case.run()
    assert metrics["loss"] == pytest.approx(float(case.loss(case.now)), rel=1e-4, abs=1e-5)
    assert metrics["ratio_mean"] == pytest.approx(float(np.exp(case.now - case.old)[case.mask].mean()), rel=1e-4)
