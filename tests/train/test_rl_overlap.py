"""Scoring that overlaps the next rollout: one step of staleness, the same numbers after an interruption."""

import contextlib
import dataclasses
import threading
import time

import jax
import numpy as np
import pytest

from lam_jax.data.loader import Loader, LoaderConfig, Peekable
from lam_jax.errors import PreemptedError, RewardError
from lam_jax.rl import ALGORITHMS
from lam_jax.runs.metrics import MetricsWriter, comparable
from lam_jax.runs.phase_checkpoint import PhaseSaver
from lam_jax.runs.progress import Progress
from lam_jax.runs.tools import Tools
from lam_jax.train import rl_collect
from lam_jax.train.loop import Phase, fit
from tests.train.made_phase import StopAt
from tests.train.made_rl import config, make_with, prompts, share_of_even_tokens

STEPS = 3
SETTINGS = dataclasses.replace(config("latent"), steps=STEPS, epochs=2, overlap_scoring=True)


def train(folder, reward=share_of_even_tokens, stop=0, settings=SETTINGS, attempts=None):
    data = Peekable(Loader(list(range(8)), lambda seeds: prompts(2 * seeds[0]), LoaderConfig(1, prefetch=0)))
    step, create = make_with(settings, reward, data, ahead=data.peek if settings.overlap_scoring else None)
    step.collect.observe = (attempts if attempts is not None else []).append
    with MetricsWriter(folder) as writer:
        saver = PhaseSaver(folder / "phase_checkpoints", stop=StopAt(stop))
        tools = Tools(writer, Progress(enabled=False), saver)
        return fit(Phase("rl", settings.steps), create(), step, data, tools)


def weights(fitted):
    return [np.asarray(x) for x in jax.tree.leaves(fitted.state.trainable)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    attempts = []
    return train(tmp_path_factory.mktemp("whole"), attempts=attempts), attempts


def test_rollouts_are_one_update_older_and_their_ratios_say_so(whole, tmp_path):
    """Prompts are those of a run without overlap, and so is the first rollout; the second is from the first weights."""
    fitted, attempts = whole
    plain = []
    apart = train(tmp_path, settings=dataclasses.replace(SETTINGS, overlap_scoring=False), attempts=plain)
    assert [(a.step, a.number) for a in attempts] == [(a.step, a.number) for a in plain] == [(1, 0), (2, 0), (3, 0)]
    assert [a.examples for a in attempts] == [a.examples for a in plain]
    assert np.asarray(attempts[0].rollout.tokens).tolist() == np.asarray(plain[0].rollout.tokens).tolist()
    first, late = fitted.history[0], fitted.history[1]
    assert first["reward_mean"] == apart.history[0]["reward_mean"]
    assert first["loss"] == pytest.approx(apart.history[0]["loss"], rel=1e-5)
    # Two steps of updates lie between the second rollout and the last update of it, not one.
    assert abs(late["ratio_max"] - 1) > abs(apart.history[1]["ratio_max"] - 1)
    for one, two in zip(attempts[1:], plain[1:], strict=True):
        assert np.abs(np.asarray(one.rollout.logps) - np.asarray(two.rollout.logps)).max() > 1e-4
    assert all("reward_wait_s" in record for record in (*fitted.history, *apart.history))


@pytest.mark.parametrize("stops", [(1, 1, 1), (2, 2), (4,)])
def test_stopped_anywhere_it_goes_on_bit_for_bit(tmp_path, whole, stops):
    """Between two updates of a rollout and after one: what was begun of the next step is in the checkpoint."""
    asked = []

    def reward(examples, answers, samples):
        asked.append([list(group) for group in answers])
        return share_of_even_tokens(examples, answers, samples)

    for stop in stops:
        with pytest.raises(PreemptedError):
            train(tmp_path, reward, stop)
    fitted = train(tmp_path, reward)
    for one, two in zip(weights(fitted), weights(whole[0]), strict=True):
        np.testing.assert_array_equal(one, two)
    assert [comparable(r) for r in fitted.history] == [comparable(r) for r in whole[0].history]


def test_a_reward_that_raises_in_the_thread_loses_no_step(tmp_path, whole):
    left = [1]

    def reward(examples, answers, samples):
        left[0] -= 1
        if left[0] == -1:
            raise RewardError("the reward's own mistake")
        return share_of_even_tokens(examples, answers, samples)

    with pytest.raises(RewardError, match="own mistake"):
        train(tmp_path, reward)
    fitted = train(tmp_path, share_of_even_tokens)
    for one, two in zip(weights(fitted), weights(whole[0]), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_next_rollout_is_drawn_while_the_reward_answers(tmp_path):
    """The reward of the first rollout answers only when the second one has been begun; two are never asked at once."""
    begun, busy = threading.Event(), threading.Lock()

    def reward(examples, answers, samples):
        assert begun.wait(60)
        with contextlib.ExitStack() as stack:
            assert busy.acquire(blocking=False)
            stack.callback(busy.release)
            time.sleep(0.01)
            return share_of_even_tokens(examples, answers, samples)

    data = Peekable(iter_of(prompts(0), prompts(2), prompts(4)))
    step, create = make_with(SETTINGS, reward, data, ahead=data.peek)
    rolling, count = step.collect._rolling, []

    def counted(*args):
        count.append(1)
        if len(count) == 2:
            begun.set()
        return rolling(*args)

    step.collect._rolling = counted
    batch, metrics = step.prepare(create(), next(data))
    assert metrics["failed_rewards"] == 0
    assert len(count) == 2
    assert batch.mask.any()


@pytest.mark.parametrize("overlap", [False, True])
def test_seconds_of_a_rollout_are_all_of_it(tmp_path, monkeypatch, overlap):
    """What a backend does before it hands out arrays counts; what an earlier session did is not made up."""
    real = rl_collect.run_rollout

    def slow(*args):
        time.sleep(0.1)
        return real(*args)

    monkeypatch.setattr(rl_collect, "run_rollout", slow)
    settings = dataclasses.replace(SETTINGS, overlap_scoring=overlap)
    with pytest.raises(PreemptedError):
        train(tmp_path, stop=2, settings=settings)
    history = train(tmp_path, settings=settings).history
    assert [record.get("rollout_s", 0.1) >= 0.1 for record in history] == [True] * STEPS
    assert ["rollout_tokens_per_s" in record for record in history] == [True, not overlap, True]


class iter_of:
    """A positioned stream of a few items."""

    def __init__(self, *items):
        self.items, self.at = items, 0

    def __next__(self):
        self.at += 1
        return self.items[self.at - 1]

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def test_a_peek_leaves_the_position_where_it_was():
    data = Peekable(iter_of(*"abcd"))
    assert (next(data), data.peek(), data.peek()) == ("a", "b", "b")
    assert data.get_state() == {"at": 1}
    assert (next(data), next(data), data.get_state()) == ("b", "c", {"at": 3})
    data.peek()
    data.set_state({"at": 1})
    assert (data.peek(), next(data)) == ("b", "b")


def test_dynamic_sampling_cannot_wait():
    with pytest.raises(ValueError, match="overlap_scoring with dapo"):
        dataclasses.replace(SETTINGS, algorithm=ALGORITHMS["dapo"])
    with pytest.raises(ValueError, match="overlap_scoring is True, with ahead None"):
        make_with(SETTINGS)
