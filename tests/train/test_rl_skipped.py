"""Updates that nothing can be learned from: nothing moves, and they are counted. N prompts, G samples."""

import dataclasses

import jax
import numpy as np
import pytest

from lam_jax.data.cuts import Cuts
from lam_jax.data.loader import Loader, LoaderConfig
from lam_jax.errors import NoUsableRewardError
from lam_jax.rewards.verdict import Verdict
from lam_jax.rl import ALGORITHMS
from lam_jax.runs.metrics import MetricsWriter, read_metrics
from lam_jax.runs.phase_checkpoint import PhaseSaver
from lam_jax.runs.progress import Progress
from lam_jax.runs.tools import Tools
from lam_jax.train.loop import Phase, fit
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.rl_rewards import Scores, advantages_of
from tests import tiny
from tests.made_reward import as_reward
from tests.train.made_rl import G, N, T, config, make_with, prompts, share_of_even_tokens

FAILED = np.zeros((N, G)), np.zeros((N, G), bool)


def settings(name="grpo", **changes):
    """Weight decay and a warm-up, which would move weights and rate by themselves."""
    optimiser = OptimiserConfig(lr=1e-2, schedule="linear", weight_decay=0.1)
    return dataclasses.replace(config("latent", name, **changes), optimiser=optimiser)


def host(state):
    return [np.asarray(x) for x in jax.tree.leaves((state.trainable, state.optimiser_state))]


def test_a_step_without_a_signal_moves_nothing_and_the_schedule_waits():
    """Calls that all fail, then groups without spread at beta 0; both after an ordinary step, which left momentum."""
    step, create = make_with(settings(beta=0.0))
    state, first = step(create(), prompts(0))
    assert first["skipped_updates"] == 0
    assert first["informative_groups"] == 1
    for found in (FAILED, (np.full((N, G), 100.1), np.ones((N, G), bool))):
        before, number = host(state), int(state.step)
        step.collect.reward = as_reward(lambda *_, found=found: found)
        state, metrics = step(state, prompts(2))
        for old, new in zip(before, host(state), strict=True):
            np.testing.assert_array_equal(old, new)
        assert int(state.step) == number + 1, "the next step draws other keys"
        assert metrics["skipped_updates"] == 1
        assert (metrics["loss"], metrics["grad_norm"], metrics["update_norm"]) == (0, 0, 0)
        assert metrics["informative_groups"] == 0
        assert np.isfinite([float(value) for value in metrics.values()]).all()
    step.collect.reward = share_of_even_tokens
    before = host(state)
    state, metrics = step(state, prompts(4))
    assert metrics["skipped_updates"] == 0
    assert any((old != new).any() for old, new in zip(before, host(state), strict=True))
    # Second of 100 optimiser steps of a rate that falls linearly: the skipped ones took none of it.
    assert float(metrics["lr"]) == pytest.approx(1e-2 * 99 / 100, rel=1e-5)
    assert float(first["lr"]) == pytest.approx(1e-2, rel=1e-6)


def test_the_kl_alone_is_something_to_learn_from():
    """Equal rewards at beta 0.01: the update pulls towards the reference, and no group is informative."""
    step, create = make_with(settings(), as_reward(lambda *_: (np.full((N, G), 1000.1), np.ones((N, G), bool))))
    batch, metrics = step.prepare(create(), prompts(0))
    assert not np.asarray(batch.advantages).any()
    assert metrics["informative_groups"] == 0
    assert step._skipped(batch) == 0


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "bnpo", "gspo", "cispo"])
def test_informative_groups_are_those_with_spread(name):
    rewards = np.array([[100.1] * 4, [1.0, 2.0, 3.0, 4.0], [5.0, 0.0, 0.0, 0.0]])
    ok = np.array([[True] * 4, [True] * 4, [True, False, False, False]])
    scores = Scores(rewards, ok, np.full((3, 4), 2, np.int32))
    advantages, active = advantages_of(ALGORITHMS[name], scores, 5)
    assert (active & (advantages != 0)).any(axis=1).tolist() == [False, True, False]


def test_of_several_updates_only_those_without_a_signal_are_skipped():
    """Two passes over two mini-batches of one prompt each; the second prompt's calls fail."""
    ok = np.ones((N, G), bool)
    ok[1] = False
    made = dataclasses.replace(settings(), epochs=2, mini_batches=2)
    step, create = make_with(made, as_reward(lambda *_: (np.tile(np.arange(G) / G, (N, 1)), ok)))
    state = create()
    batch, _ = step.prepare(state, prompts(0))
    moved = []
    for index in range(step.updates):
        before = host(state)
        state, _ = step.apply(state, batch, index)
        moved.append(any((old != new).any() for old, new in zip(before, host(state), strict=True)))
    assert moved == [True, False, True, False]
    assert step.finish(state, batch, {"generation_s": 1.0})["skipped_updates"] == 2


def test_a_run_whose_calls_all_fail_stops_with_the_reason_and_goes_on_when_they_do_not(tmp_path):
    """Two steps succeed, then a judge refuses everything; corrected, the run ends as one in which it never did."""
    made = dataclasses.replace(settings(), steps=5, max_failed_steps=2)
    broken = [False]

    def reward(examples, answers, samples):
        if broken[0]:
            return [[Verdict(error="status 400: no temperature", kind="http_400")] * G] * N
        return share_of_even_tokens(examples, answers, samples)

    def run(folder, breaks=0):
        data = Loader(list(range(8)), lambda seeds: prompts(2 * seeds[0]), LoaderConfig(1, prefetch=0))
        step, create = make_with(made, reward, data)
        calls = []
        step.collect.observe = lambda attempt: (calls.append(1), broken.__setitem__(0, 0 < breaks <= len(calls)))
        with MetricsWriter(folder) as writer:
            tools = Tools(writer, Progress(enabled=False), PhaseSaver(folder / "phase_checkpoints"))
            return fit(Phase("rl", made.steps), create(), step, data, tools)

    with pytest.raises(NoUsableRewardError, match=r"http_400: 64 of 64 calls. status 400: no temperature The judge"):
        run(tmp_path, breaks=2)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["failed_rewards"] for r in records] == [0, 0, N * G]
    assert records[-1]["failed_rewards/http_400"] == N * G
    assert [r["skipped_updates"] for r in records] == [0, 0, 1]
    broken[0] = False
    fitted = run(tmp_path)
    assert [r["step"] for r in fitted.history] == [1, 2, 3, 4, 5]
    assert int(fitted.state.step) == 5


def test_an_answer_that_ends_in_its_last_place_has_ended():
    """Whatever of several end tokens it ends in; an answer that was cut has not."""
    agent = tiny.agent()
    plain, create = make_with(settings())
    batch, metrics = plain.prepare(create(), prompts(0))
    tokens = np.asarray(batch.rollout.tokens)
    assert metrics["ended"] == pytest.approx((tokens[..., -1] == tiny.EOS).mean())
    # Tokens that stand in the last place of some answers and nowhere else in them.
    last = tokens[..., -1]
    alone = [t for t in np.unique(last) if not (tokens[..., :-1][last == t] == t).any()]
    first, other = int(alone[0]), int(alone[-1])
    model = dataclasses.replace(agent.backbone.config, eos_id=first, other_eos_ids=(other,))
    ending = agent.replace(backbone=agent.backbone.replace(config=model))
    stopping = dataclasses.replace(settings(), rollout=dataclasses.replace(settings().rollout, stop=True))
    step, create = make_with(stopping, agent=ending)
    batch, metrics = step.prepare(create(), prompts(0))
    kept = np.asarray(batch.rollout.mask)
    ends = np.isin(tokens, (first, other))
    lengths = np.where(ends.any(axis=-1), ends.argmax(axis=-1) + 1, T)
    np.testing.assert_array_equal(kept.sum(axis=-1), lengths)
    assert metrics["ended"] == pytest.approx(ends.any(axis=-1).mean())
    assert ((lengths == T) & ends[..., -1]).any(), "some end in the last place"
    assert metrics["ended"] > np.mean(lengths < T)


def test_cuts_of_the_prompts_are_metrics():
    step, create = make_with(settings())
    _, metrics = step.prepare(create(), dataclasses.replace(prompts(0), cuts=Cuts(2, 70)))
    assert (metrics["rows_cut"], metrics["tokens_cut"]) == (2, 70)
