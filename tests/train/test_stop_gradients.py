"""Which weights each loss reaches: gradients by all weights of the agent, exactly zero where method.md says so.

What a stage does not train is frozen by its partition too; these zeros are those that the loss itself has to give.
"""

import dataclasses

import numpy as np
import pytest

from lam_jax.train.partition import path_names
from lam_jax.train.stages import SFT_LEARN, STAGES, MixedBatch
from tests.train import made_stages as made
from tests.train.made_stages import DEFAULT

VISION, EMBEDDING, BLOCKS = "backbone.vision", "backbone.embedding", "backbone.blocks"
NORM, HEAD = "backbone.norm", "backbone.lm_head"
CODES = ("latent.inverse", "latent.codebook", "latent.world")
P_MEAN, P_VARIANCE = "latent.projector.mean", "latent.projector.log_variance_net"
BACK = ("latent.back_projector.mean", "latent.back_projector.log_variance_net")
PROJECTORS = (P_MEAN, P_VARIANCE, *BACK)
POLICY = ("latent.policy",)
BACKBONE = (VISION, EMBEDDING, BLOCKS, NORM, HEAD)

MIXED = made.mixed()
PAIRED, CHATS = MIXED.paired, made.chats()
TEXT_ALONE = MixedBatch(made.silent(PAIRED), MIXED.text)
PAIRED_ALONE = MixedBatch(PAIRED, made.silent(MIXED.text))
NO_CYCLE = dataclasses.replace(DEFAULT, cycle=False)
# Frozen weights that a loss goes through on its way, of which METHOD says nothing: the readout, and in stage 5 the
# merge and, on text-only rows, mu_P.
READOUT, MERGE = (NORM, HEAD), ("latent.world", P_MEAN)

# what: loss, batch, method, the weights that it reaches, and those that it may reach; all others get exactly zero
CASES = {
    "stage 1": ("inverse", PAIRED, DEFAULT, CODES, READOUT),
    "stage 2": ("projector", PAIRED, DEFAULT, PROJECTORS, ()),
    "stage 3": ("joint", MIXED, DEFAULT, CODES + PROJECTORS, READOUT),
    "stage 3, text-only rows": ("joint", TEXT_ALONE, DEFAULT, (*CODES, P_MEAN, *BACK), READOUT),
    "stage 3, text-only rows, no cycle": ("joint", TEXT_ALONE, NO_CYCLE, CODES, READOUT),
    "stage 3, paired rows": ("joint", PAIRED_ALONE, DEFAULT, CODES + PROJECTORS, READOUT),
    "stage 4": ("cloning", MIXED, DEFAULT, POLICY, ()),
    "stage 5, released": ("sft_latent released", CHATS, DEFAULT, BACKBONE, MERGE),
    "stage 5, pass A": ("sft_latent predict", CHATS, DEFAULT, BACKBONE, MERGE),
    "stage 5, pass B": ("sft_latent clone", CHATS, DEFAULT, POLICY, ()),
    "stage 5, joint": ("sft_latent joint", CHATS, DEFAULT, BACKBONE + POLICY, MERGE),
    "stage 5, learn": ("sft_latent learn", CHATS, DEFAULT, BACKBONE + POLICY + CODES, (P_MEAN,)),
    "stage 5, token": ("sft_token", CHATS, DEFAULT, BACKBONE, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_loss_reaches(case, key):
    loss, batch, method, reached, open_ = CASES[case]
    value, gradients = made.gradients(loss, batch, key, method)
    assert value > 0
    for weight, gradient in gradients.items():
        if made.belongs(weight, reached):
            assert gradient.any(), f"{weight} is not reached"
        elif not made.belongs(weight, open_):
            assert not gradient.any(), f"{weight} is reached: {np.abs(gradient).max()}"


@pytest.mark.parametrize(
    "case", ["stage 1", "stage 2", "stage 3", "stage 4", "stage 5, joint", "stage 5, learn", "stage 5, token"]
)
def test_every_weight_that_a_stage_trains_is_reached(case):
    loss, _, method, reached, _ = CASES[case]
    stage = SFT_LEARN if loss.endswith(" learn") else STAGES[loss.split()[0]]
    parts = stage.trains(made.agent().backbone.config, method)
    trained = [weight for weight in path_names(made.agent()) if made.belongs(weight, parts)]
    assert trained
    assert all(made.belongs(weight, reached) for weight in trained)


def test_both_halves_of_the_joint_recipe_train_what_they_train_alone(key):
    """The backbone learns from pass A as if there were no policy, the policy from pass B as if there were no merge."""
    _, one = made.gradients("sft_latent predict", CHATS, key, DEFAULT)
    _, two = made.gradients("sft_latent clone", CHATS, key, DEFAULT)
    _, both = made.gradients("sft_latent joint", CHATS, key, DEFAULT)
    for weight, gradient in both.items():
        np.testing.assert_allclose(gradient, one[weight] + two[weight], rtol=0, atol=1e-6 * np.abs(gradient).max())


def test_learning_codes_leaves_the_policys_gradient_as_it_is(key):
    """Cloning is to the choice without noise, and trains the policy alone: as under `joint`, whatever the noise."""
    _, one = made.gradients("sft_latent joint", CHATS, key, DEFAULT)
    _, two = made.gradients("sft_latent learn", CHATS, key, DEFAULT)
    for weight, gradient in one.items():
        if made.belongs(weight, POLICY):
            np.testing.assert_allclose(two[weight], gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())


def test_likelihoods_alone_train_the_projector_in_stage_3(key):
    """Without the cycle loss stage 3 gives P and P' the gradient of stage 2, weighted, whatever the codes do."""
    _, joint = made.gradients("joint", MIXED, key, NO_CYCLE)
    _, alone = made.gradients("projector", PAIRED, key, DEFAULT)
    for weight, gradient in alone.items():
        if made.belongs(weight, PROJECTORS):
            expected = DEFAULT.nll_weight * gradient
            np.testing.assert_allclose(joint[weight], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
