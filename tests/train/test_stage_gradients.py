"""Every stage's loss and the gradient of what it trains, against method.md written out (`plain_stages`)."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.train import made_stages as made
from tests.train import plain_stages
from tests.train.made_stages import DEFAULT, OFFICIAL
from tests.train.plain_stages import Plain

CODES = ("latent.inverse", "latent.codebook", "latent.world")
PROJECTORS = ("latent.projector", "latent.back_projector")
BACKBONE, POLICY = ("backbone",), ("latent.policy",)
TRAINED = {
    "inverse": CODES,
    "projector": PROJECTORS,
    "joint": CODES + PROJECTORS,
    "cloning": POLICY,
    "sft_latent released": BACKBONE,
    "sft_latent predict": BACKBONE,
    "sft_latent clone": POLICY,
    "sft_latent joint": BACKBONE + POLICY,
    "sft_latent learn": BACKBONE + POLICY + CODES,
    "sft_token": BACKBONE,
}
HEAVY = dataclasses.replace(DEFAULT, entropy_weight=0.5, nll_weight=0.25)
# A method, padding on the left, and what METHOD says of it. Heavy weights show what the published ones hide.
METHODS = {
    "default": (DEFAULT, False, Plain()),
    "heavy": (HEAVY, False, Plain(r_weight=0.5, nll_weight=0.25)),
    "official": (OFFICIAL, True, Plain(learning="delta", acting="block", after_padding=True)),
}
CASES = [
    ("inverse", "heavy"),
    ("inverse", "official"),
    ("projector", "default"),
    ("joint", "heavy"),
    ("joint", "official"),
    ("cloning", "default"),
    ("sft_latent released", "default"),
    ("sft_latent released", "official"),
    ("sft_latent predict", "default"),
    ("sft_latent clone", "default"),
    ("sft_latent joint", "default"),
    ("sft_latent learn", "default"),
    ("sft_latent learn", "official"),
    ("sft_token", "default"),
]


def rows(stage, left):
    """A batch of the kind that a stage trains on."""
    if stage.startswith("sft"):
        return made.chats(left)
    return made.mixed(left) if stage in ("joint", "cloning") else made.mixed(left).paired


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_loss_and_gradients_are_those_of_the_method_written_out(stage, name, key):
    method, left, plain = METHODS[name]
    batch = rows(stage, left)
    loss, found = made.gradients(stage, batch, key, method)
    reference = functools.partial(plain_stages.LOSSES[stage], plain=plain)
    expected_loss, expected = made.by_name(jax.jit(jax.value_and_grad(reference)), batch, key)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for weight, gradient in expected.items():
        if made.belongs(weight, TRAINED[stage]):
            largest = np.abs(gradient).max()
            assert largest > 0, weight
            np.testing.assert_allclose(found[weight], gradient, rtol=0, atol=1e-5 * largest, err_msg=weight)


def test_published_weights_are_the_default():
    published = Plain()
    for method in (DEFAULT, OFFICIAL):
        assert (method.entropy_weight, method.nll_weight) == (published.r_weight, published.nll_weight)
