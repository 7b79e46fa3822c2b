"""Length buckets of stage 6: they change no number, and what they need is compiled before the first step."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.data.collator import Collated, Cuts
from lam_jax.hosts.compilation import CompileClock
from lam_jax.parallel import TRAIN, make_mesh, shardings
from lam_jax.train.compile_ahead import compile_ahead
from lam_jax.train.rl_batch import longest, shortened
from tests import tiny
from tests.made_reward import as_reward
from tests.tiny import Row, make_batch, words
from tests.train.made_rl import EXAMPLE, N, T, collated, config, make, make_with, prompts
from tests.train.test_rl import weights


def bucketed(space, lengths, **changes):
    return make_with(dataclasses.replace(config(space), update_lengths=lengths), **changes)


@pytest.mark.parametrize("space", ["latent", "token"])
def test_an_update_at_a_shorter_bucket_is_the_same(space):
    (plain, create), (short, _) = make(space), bucketed(space, (1, 3))
    batch, _ = plain.prepare(create(), prompts(0))
    assert longest(batch) == T
    mask = jnp.asarray(np.asarray(batch.mask) & (np.arange(T) < 2))
    batch = batch.replace(mask=mask, rollout=batch.rollout.replace(mask=mask))
    assert longest(batch) == 2
    assert shortened(batch, 3).rollout.hidden.shape[2] == 3
    one, _ = plain.apply(create(), batch, 0)
    other, _ = short.apply(create(), batch, 0)
    # Adam's moments: its first step is the gradient's sign, also where that is rounding.
    chex.assert_trees_all_close(one.optimiser_state, other.optimiser_state, rtol=1e-5, atol=1e-7)


def on_a_mesh():
    """On no mesh at all it is not settled where arrays lie."""
    return jax.device_put(tiny.agent(), shardings(tiny.agent().specs, make_mesh((1, 1, 1)), TRAIN))


def test_nothing_is_compiled_in_any_bucket_after_the_start():
    """Two prompt lengths, three completion lengths."""
    step, create = bucketed("latent", (1, 3), agent=on_a_mesh())
    state = create()
    before = weights(state)
    compile_ahead(step, state, prompts(0).batch, (8, 10))
    for a, b in zip(before, weights(state), strict=True):
        np.testing.assert_array_equal(a, b)
    # What host code around the programs compiles for itself, of any shape.
    batch, _ = step.prepare(state, prompts(0))
    state, _ = step.apply(state, batch, 0)
    for drawn in (prompts(1), longer(2)):
        with CompileClock() as clock:
            batch, _ = step.prepare(state, drawn)
        assert clock.programs == 0, f"prompts {drawn.batch.tokens.shape}"
        for length in (1, 2, T):
            mask = np.asarray(batch.mask) & (np.arange(T) < length)
            cut = batch.replace(mask=jax.device_put(mask, batch.mask.sharding))
            with CompileClock() as clock:
                state, _ = step.apply(state, cut, 0)
            assert clock.programs == 0, f"prompts {drawn.batch.tokens.shape}, completions of {length}"


@pytest.mark.parametrize("space", ["latent", "token"])
@pytest.mark.parametrize("longer_first", [False, True])
def test_dynamic_sampling_joins_prompts_of_several_buckets(space, longer_first):
    """The first prompt has no signal and is replaced by the refill's second; two updates, so that old log-probabilities
    are the rollout's: with the prompts filled up they are still what the update computes, and the ratio is 1."""
    first, second = (longer(9), prompts(0)) if longer_first else (prompts(0), longer(9))
    settings = dataclasses.replace(config(space, "dapo", max_refills=1), epochs=2)
    step, create = make_with(settings, uneven, [second])
    batch, metrics = step.prepare(create(), first)
    assert metrics["refills"] == 1
    assert batch.prompts.tokens.shape == (N, 10)
    for row, source in ((0, second), (1, first)):
        tokens, mask = np.asarray(source.batch.tokens[1]), np.asarray(source.batch.mask[1])
        np.testing.assert_array_equal(
            np.asarray(batch.prompts.tokens[row])[np.asarray(batch.prompts.mask[row])], tokens[mask]
        )
        assert np.asarray(batch.prompts.mask[row])[-mask.sum() :].all(), "padding is on the left"
    _, applied = step.apply(create(), batch, 0)
    assert float(applied["ratio_max"]) == pytest.approx(1, abs=1e-4)
    assert float(applied["ratio_mean"]) == pytest.approx(1, abs=1e-5)


def test_a_refill_without_pictures_joins_prompts_with_some():
    """And the other way round; a row's own picture goes with it."""
    text = collated([Row(words(5, 3)), Row(words(7, 4))])
    for first, second in (
        (prompts(0), text),
        (text, collated([Row(words(3, 7)), Row(words(4, 5), ((1, 2, 2),), seed=5)])),
    ):
        step, create = make("token", name="dapo", reward=uneven, refill=[second], max_refills=1)
        batch, _ = step.prepare(create(), first)
        seen = np.asarray(batch.prompts.has_image)
        assert seen.tolist() == [bool(second.batch.has_image[1]), bool(first.batch.has_image[1])]
        assert (np.asarray(batch.prompts.images.image_id) >= 0).any(axis=1).tolist() == seen.tolist()


def longer(seed) -> Collated:
    """Prompts of the next bucket."""
    rows = [Row(words(6, seed), ((1, 2, 2),), seed=seed), Row(words(9, seed + 1))]
    return Collated(make_batch(rows, 10, left=True), (EXAMPLE,) * N, Cuts())


@as_reward
def uneven(examples, answers):
    """All samples of the first prompt score alike, so that it is drawn again."""
    shape = len(answers), len(answers[0])
    rewards = np.random.default_rng(0).random(shape)
    rewards[0] = 1.0
    return rewards, np.ones(shape, bool)


def test_buckets_have_to_fit_the_rollout():
    step, _ = make("latent")
    for lengths in ((3, 2), (T,), (0, 2)):
        with pytest.raises(ValueError, match="update_lengths"):
            dataclasses.replace(step.config, update_lengths=lengths)
