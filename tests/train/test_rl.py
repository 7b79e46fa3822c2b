"""Stage 6 on a tiny agent with a made-up reward. N prompts, G samples of a prompt, T completion length."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.data.loader import Loader, LoaderConfig
from lam_jax.errors import PreemptedError, RewardError
from lam_jax.runs.jsonl import read_lines
from lam_jax.runs.metrics import MetricsWriter, comparable
from lam_jax.runs.phase_checkpoint import PhaseSaver
from lam_jax.runs.progress import Progress
from lam_jax.runs.samples import SampleLog
from lam_jax.runs.tools import Tools
from lam_jax.train.loop import Phase, fit
from tests.made_reward import as_reward
from tests.train.made_phase import StopAt
from tests.train.made_rl import (
    EXAMPLE,
    G,
    N,
    T,
    config,
    even_tokens,
    make,
    make_with,
    prompts,
    share_of_even_tokens,
    without_updating,
)


@pytest.fixture(scope="module")
def made():
    """Steps by action space; the update is compiled once."""
    return functools.cache(make)


@pytest.mark.parametrize("space", ["latent", "hybrid", "token"])
def test_training_raises_the_reward(made, space):
    step, create = made(space)
    state, rewards = create(), []
    for _ in range(8):
        state, metrics = step(state, prompts(0))
        rewards.append(metrics["reward_mean"])
        assert np.isfinite([float(value) for value in metrics.values()]).all()
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.15
    assert int(state.step) == 8
    # The first step starts at the reference, on policy.
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert float(metrics["kl"]) > 0
    assert metrics["failed_rewards"] == 0


def weights(state):
    return [np.asarray(x) for x in jax.tree.leaves(state.trainable)]


def test_failed_calls_count_nowhere(made):
    """Whatever stands in their place; if all fail nothing moves."""
    step, create = made("latent")

    def failing(value, failed):
        @as_reward
        def reward(examples, answers):
            return np.where(failed, value, even_tokens(answers)), ~failed

        return reward

    some = np.zeros((N, G), bool)
    some[0, 3] = some[1, :5] = True
    results = []
    for value, failed in ((np.nan, some), (1e6, some), (np.nan, np.ones((N, G), bool))):
        step.collect.reward = failing(value, failed)
        state, metrics = step(create(), prompts(0))
        assert np.isfinite([float(value) for value in metrics.values()]).all()
        assert metrics["failed_rewards"] == failed.sum()
        results.append(weights(state))
    step.collect.reward = share_of_even_tokens
    start = weights(create())
    for nans, numbers, nothing, old in zip(*results, start, strict=True):
        np.testing.assert_array_equal(nans, numbers)
        np.testing.assert_array_equal(nothing, old)
    assert any((x != y).any() for x, y in zip(results[0], start, strict=True))


def test_dynamic_sampling_replaces_groups_without_a_signal():
    """The second prompt's answers are all alike at first, and so is all of the first refill."""
    calls = []

    @as_reward
    def reward(examples, answers):
        informative = [[True, False], [False, False], [False, True]][len(calls)]
        calls.append(answers)
        return np.where(np.array(informative)[:, None], np.arange(G)[None] / G, 0.5)

    def collected(refills):
        calls.clear()
        step, create = make("latent", reward, (prompts(s) for s in (10, 20)), "dapo", max_refills=refills)
        return step.collect(create(), prompts(0))

    batch, metrics = collected(2)
    assert metrics["refills"] == 2
    np.testing.assert_array_equal(batch.prompts.tokens[0], prompts(0).batch.tokens[0])
    np.testing.assert_array_equal(batch.prompts.tokens[1], prompts(20).batch.tokens[1])
    np.testing.assert_array_equal(batch.prompts.images.patches[1], prompts(20).batch.images.patches[1])
    assert np.asarray(batch.mask).any(axis=(1, 2)).all()
    assert float(jnp.abs(batch.advantages[1]).max()) > 0

    batch, metrics = collected(1)
    assert metrics["refills"] == 1
    assert np.asarray(batch.mask).any(axis=(1, 2)).tolist() == [True, False]
    np.testing.assert_array_equal(batch.prompts.tokens[1], prompts(0).batch.tokens[1])


def test_several_updates_share_a_rollout():
    """Two passes over two mini-batches of one prompt each."""
    settings = dataclasses.replace(config("latent"), epochs=2, mini_batches=2)
    assert settings.updates == 4
    step, create = make_with(settings)
    seen = without_updating(step)
    step(create(), prompts(0))
    rows = [prompts(0).batch.tokens[i] for i in (0, 1, 0, 1)]
    for batch, row in zip(seen, rows, strict=True):
        np.testing.assert_array_equal(batch.prompts.tokens, row[None])
        assert batch.rollout.tokens.shape == (1, G, T)


@pytest.mark.parametrize(("space", "held"), [("latent", "same"), ("hybrid", "same"), ("latent", "int8")])
def test_stopped_between_two_updates_of_a_rollout_it_goes_on_bit_for_bit(tmp_path, space, held):
    """The rollout is in the checkpoint: it is not drawn again with the weights of then."""
    rollout = dataclasses.replace(config(space).rollout, weights=held)
    settings = dataclasses.replace(config(space), steps=2, epochs=2, mini_batches=2, rollout=rollout)
    rolled = []

    def reward(examples, answers, samples):
        rolled.append(answers)
        return share_of_even_tokens(examples, answers, samples)

    def run(folder, visits):
        samples = SampleLog(folder)
        data = Loader(list(range(4)), lambda seeds: prompts(2 * seeds[0]), LoaderConfig(1, prefetch=0))
        step, create = make_with(settings, reward, data)
        step.collect.observe = lambda attempt: samples.write("rl", attempt.step, 2, [(EXAMPLE, [])], coded=True)
        saver = PhaseSaver(folder / "phase_checkpoints", stop=StopAt(visits))
        with MetricsWriter(folder) as writer, contextlib.closing(samples):
            tools = Tools(writer, Progress(enabled=False), saver, logs=(samples,))
            return fit(Phase("rl", settings.steps), create(), step, data, tools)

    whole = run(tmp_path / "whole", 0)
    for _ in range(3):
        with pytest.raises(PreemptedError):
            run(tmp_path / "run", 2)
    resumed = run(tmp_path / "run", 0)
    for one, other in zip(weights(resumed.state), weights(whole.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [comparable(r) for r in resumed.history] == [comparable(r) for r in whole.history]
    assert len(rolled) == 4, "two rollouts of each run"
    for name in ("whole", "run"):
        shown = [record["step"] for record in read_lines(tmp_path / name / "samples.jsonl")]
        assert shown == [1, 2], "those of a rollout stay where the run goes on after it was drawn"


def test_a_reward_that_raises_loses_no_step(tmp_path):
    """With no regular checkpoints: the third rollout fails, is drawn again, and all is as if it had not failed."""
    settings = dataclasses.replace(config("latent"), steps=4)

    def run(folder, fails):
        calls = []

        def reward(examples, answers, samples):
            calls.append(answers)
            if fails and len(calls) == 3:
                raise RewardError("the reward's own mistake")
            return share_of_even_tokens(examples, answers, samples)

        data = Loader(list(range(8)), lambda seeds: prompts(2 * seeds[0]), LoaderConfig(1, prefetch=0))
        step, create = make_with(settings, reward, data)
        with MetricsWriter(folder) as writer:
            tools = Tools(writer, Progress(enabled=False), PhaseSaver(folder / "phase_checkpoints"))
            return fit(Phase("rl", settings.steps), create(), step, data, tools), calls

    whole, answers = run(tmp_path / "whole", False)
    with pytest.raises(RewardError, match="own mistake"):
        run(tmp_path / "run", True)
    resumed, again = run(tmp_path / "run", False)
    assert again == answers[2:]
    for one, other in zip(weights(resumed.state), weights(whole.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [comparable(r) for r in resumed.history] == [comparable(r) for r in whole.history]


def test_each_rollout_is_observed_once_with_its_step_and_changes_nothing():
    """Two updates a rollout; the second step begins after two of them."""
    settings = dataclasses.replace(config("latent"), epochs=2)
    plain, create = make_with(settings)
    one, _ = plain(create(), prompts(0))
    seen = []
    step, create = make_with(settings)
    step.collect.observe = seen.append
    state, metrics = step(create(), prompts(0))
    for moved, other in zip(weights(state), weights(one), strict=True):
        np.testing.assert_array_equal(moved, other)
    step(state, prompts(2))
    assert [(a.step, a.number, a.examples) for a in seen] == [(n, 0, prompts(0).examples) for n in (1, 2)]
    assert seen[0].scores.rewards.mean() == pytest.approx(metrics["reward_mean"])
    assert seen[0].rollout.tokens.shape == (N, G, T)


def test_refills_are_observed_with_their_numbers():
    step, create = make("latent", as_reward(lambda *_: np.full((N, G), 0.5)), [prompts(10)] * 4, "dapo", max_refills=2)
    seen = []
    step.collect.observe = seen.append
    step.collect(create(), prompts(0))
    assert [(attempt.step, attempt.number) for attempt in seen] == [(1, 0), (1, 1), (1, 2)]


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="mini_batches 3 must divide prompts 2"):
        dataclasses.replace(config("latent"), mini_batches=3)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        dataclasses.replace(config("latent"), epochs=0)
