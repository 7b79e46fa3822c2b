"""`python -m experiments.coverage`: figures by hand, and that each fault is the one that it is called."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import coverage
from experiments.coverage import Seen, figures, look, measure, noisy, of_another, on_pixels, perplexity, text_form
from lam_jax.latent.agent import Reading
from tests import tiny
from tests.tiny import Row, make_batch, words

READING = Reading("merged", project=True)
PICTURE = ((1, 4, 4),)
PAIRED = make_batch([Row(words(6), PICTURE, 3), Row(words(5, 1), PICTURE, 3, seed=1)], 12)
PICTURES: Any = PAIRED.images
TEXT = make_batch([Row(words(9, 2), response=4), Row(words(4, 3), response=2)], 12)


def seen(*codes, logp=0.0, backbone=0.0):
    return Seen(np.array(codes), np.full(len(codes), logp), np.full(len(codes), backbone))


def same(one: Seen, other: Seen) -> bool:
    close = np.allclose(one.logp, other.logp, atol=1e-5) and np.allclose(one.backbone_logp, other.backbone_logp)
    return close and one.code.tolist() == other.code.tolist()


def test_figures_by_hand():
    found = figures(seen(0, 1, 1, 3, logp=-2.0, backbone=-3.0), seen(0, 0, 1, 2), 4)
    assert found["agreement"] == 0.5
    assert found["by_chance"] == pytest.approx(0.25 * 0.5 + 0.5 * 0.25)
    assert found["overlap"] == pytest.approx(0.25 + 0.25)
    assert found["perplexity"] == pytest.approx(math.exp(0.5 * math.log(4) + 0.5 * math.log(2)))
    assert (found["logp"], found["backbone_logp"]) == (-2.0, -3.0)
    assert perplexity(np.array([0.0, 1.0])) == 1.0


@jax.jit
def networks(agent, batch):
    """Logits of the inverse model and of the world model under each code, by the modules themselves."""
    e = agent.backbone.states(batch)
    x = jnp.where(batch.has_image[:, None, None], e, agent.latent.projector.mean(e))
    inverse = agent.latent.inverse(x, agent.backbone.rotary(batch.positions), batch.mask)

    def under(code):
        merged, _ = agent.latent.world(x, jnp.broadcast_to(code, x.shape))
        return agent.backbone.logits(agent.backbone.norm(merged))

    return inverse, jax.vmap(under)(agent.latent.codebook), agent.backbone.logits(e)


def expected(agent, batch) -> Seen:
    """At positions whose next token is of a response: the code inferred one position later, and what it says."""
    inverse, under, plain = (np.asarray(x, np.float64) for x in networks(agent, batch))
    codes, logps, plains = [], [], []

    def logp(logits, token):
        return logits[token] - np.log(np.exp(logits).sum())

    for row, tokens in enumerate(batch.tokens):
        for at in range(len(tokens) - 1):
            if batch.response[row, at + 1] and batch.valid[row, at + 1]:
                codes.append(int(inverse[row, at + 1].argmax()))
                logps.append(logp(under[codes[-1], row, at], tokens[at + 1]))
                plains.append(logp(plain[row, at], tokens[at + 1]))
    return Seen(np.array(codes), np.array(logps), np.array(plains))


@pytest.mark.parametrize("batch", [PAIRED, TEXT, text_form(PAIRED)], ids=["paired", "text", "text form"])
def test_codes_and_log_probabilities_are_those_of_the_modules(batch):
    agent = tiny.agent()
    found = look(agent, [batch], READING)
    assert same(found, expected(agent, batch))
    assert len(found.code) == int(np.asarray(batch.response).sum())


def test_the_text_form_is_projected_and_what_is_withheld_is_not_and_no_picture_reaches_either():
    agent = tiny.agent()
    blind = PAIRED.replace(images=PICTURES.replace(patches=PICTURES.patches + 1.0))
    for form in (text_form, lambda batch: batch.without_images()):
        assert same(look(agent, [form(PAIRED)], READING), look(agent, [form(blind)], READING))
    withheld = look(agent, [PAIRED.without_images()], READING)
    assert not same(look(agent, [text_form(PAIRED)], READING), withheld)
    unprojected = Reading("merged", project=False)
    assert same(look(agent, [text_form(PAIRED)], unprojected), withheld)


def test_another_rows_picture_is_that_of_the_row_before():
    swapped: Any = of_another(PAIRED)
    assert np.array_equal(swapped.images.patches[0], PICTURES.patches[1])
    assert np.array_equal(swapped.tokens, PAIRED.tokens)
    assert not np.array_equal(PICTURES.patches[0], PICTURES.patches[1])


def test_noise_grows_with_its_scale_and_none_changes_nothing():
    agent, key = tiny.agent(), jax.random.key(1)
    clean = look(agent, [PAIRED], READING)
    assert same(look(noisy(agent, 0.0, key), [PAIRED], READING), clean)
    tower, loud = (each.backbone.vision for each in (agent, noisy(agent, 0.5, key)))  # pyright: ignore[reportAttributeAccessIssue]
    plain = np.asarray(tower(PICTURES, jnp.dtype("float32")))
    moved = np.asarray(loud(PICTURES, jnp.dtype("float32"))) - plain
    assert moved.std() == pytest.approx(0.5 * math.sqrt(np.mean(plain**2)), rel=0.2)


def test_noise_on_pixels_is_of_their_size_and_leaves_the_rows():
    loud: Any = on_pixels(PAIRED, 0.5)
    moved = np.asarray(loud.images.patches) - np.asarray(PICTURES.patches)
    assert moved.std() == pytest.approx(0.5 * math.sqrt(np.mean(np.asarray(PICTURES.patches) ** 2)), rel=0.1)
    assert np.array_equal(loud.tokens, PAIRED.tokens)
    assert np.array_equal(loud.images.image_id, PICTURES.image_id)


def test_an_agents_figures():
    agent = tiny.agent()
    found = measure(agent, [PAIRED], [TEXT], READING)
    whole = found["conditions"]["as it is"]
    assert whole["agreement"] == 1.0
    assert whole["overlap"] == pytest.approx(1.0)
    assert list(found["conditions"]) == [
        "as it is",
        "text form",
        "picture withheld",
        "another row's picture",
        *(f"noise {scale:g} on {where}" for where in ("vision states", "pixels") for scale in coverage.NOISES),
    ]
    own, text = (np.bincount(look(agent, [b], READING).code, minlength=found["codes"]) for b in (PAIRED, TEXT))
    assert found["positions"] == own.sum()
    assert found["text_only"]["used"] == (text > 0).sum()
    assert found["text_only"]["image_text_within"] == pytest.approx(own[text > 0].sum() / own.sum())
