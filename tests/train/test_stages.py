"""The stages' losses and steps on a tiny agent: what trains, what the switches change, bf16."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn.weight import path_name
from lam_jax.train.method import METHODS, Method
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import Last, merge, partition
from lam_jax.train.spaces import LATENT, TOKEN
from lam_jax.train.stages import (
    SFT_LEARN,
    STAGES,
    MixedBatch,
    Step,
    cloning_loss,
    inverse_loss,
    joint_loss,
    latent_sft_loss,
    projector_loss,
    token_sft_loss,
)
from lam_jax.train.state import TrainState
from tests import tiny
from tests.tiny import Row, make_batch, words

LENGTH = 12
PAIRED = make_batch([Row(words(6), ((1, 4, 4),), 3), Row(words(4, 1), ((1, 2, 2),), 2, seed=1)], LENGTH)
TEXT = make_batch([Row(words(11, 2), response=4), Row(words(5, 3), response=2)], LENGTH)
MIXED = MixedBatch(PAIRED, TEXT)
DEFAULT = METHODS["default"]
RELEASED = dataclasses.replace(DEFAULT, sft="released")

TOP = ["backbone.embedding", "backbone.norm", "backbone.blocks"]
LEARNERS = ["latent.inverse", "latent.codebook", "latent.world"]
PROJECTORS = ["latent.projector", "latent.back_projector"]
# stage: loss, batch, method, and the parts that method.md section 3 lets train
CASES = {
    "inverse": (inverse_loss, PAIRED, DEFAULT, LEARNERS),
    "projector": (projector_loss, PAIRED, DEFAULT, PROJECTORS),
    "joint": (joint_loss, MIXED, DEFAULT, LEARNERS + PROJECTORS),
    "cloning": (cloning_loss, MIXED, DEFAULT, ["latent.policy"]),
    "sft_latent": (latent_sft_loss, PAIRED, DEFAULT, ["backbone.vision", *TOP, "latent.policy"]),
    "sft_latent released": (latent_sft_loss, PAIRED, RELEASED, ["backbone.vision", *TOP]),
    "sft_token": (token_sft_loss, PAIRED, DEFAULT, ["backbone.vision", *TOP]),
}


def named(agent):
    return {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(agent)}


@functools.cache
def stage_step(name):
    """(step, state maker, frozen part) of a stage."""
    _, _, method, _ = CASES[name]
    trainable, frozen = partition(tiny.agent(), STAGES[name].trains(tiny.CONFIG, method))
    optimiser = make_optimiser(OptimiserConfig(lr=1e-3), 10)
    create = functools.partial(TrainState.create, trainable, optimiser, jax.random.key(0))
    return Step(STAGES[name], frozen, optimiser, method), create, frozen


@pytest.mark.parametrize("name", ["joint", "cloning", "sft_latent"])
def test_a_step_moves_every_weight_of_the_stage_and_no_other(name):
    """Joint trains what stages 1 and 2 do. Of the stacked backbone blocks only the last one of two trains."""
    step, create, frozen = stage_step(name)
    _, batch, _, parts = CASES[name]
    before = named(tiny.agent())
    state, metrics = step(create(), batch)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    after = named(merge(state.trainable, frozen))
    for leaf, old in before.items():
        moved = after[leaf] != old
        if not any(leaf.startswith(part) for part in parts):
            assert not moved.any(), leaf
        elif leaf.startswith("backbone.blocks."):
            assert not moved[0].any(), leaf
            assert moved[1].any(), leaf
        else:
            assert moved.any(), leaf


@pytest.mark.parametrize("name", CASES)
def test_trainable_parts(name):
    _, _, method, parts = CASES[name]
    found = STAGES[name.split()[0]].trains(tiny.CONFIG, method)
    assert sorted(found) == sorted(parts)
    assert all(choice == (Last(1) if part == "backbone.blocks" else True) for part, choice in found.items())


def with_dtype(agent, dtype):
    config = dataclasses.replace(agent.backbone.config, compute_dtype=dtype)
    return agent.replace(backbone=agent.backbone.replace(config=config))


@pytest.fixture(scope="module")
def losses():
    """Every stage's loss without noise, in both compute dtypes."""

    @functools.partial(jax.jit, static_argnums=1)
    def compute(agent, dtype):
        agent = with_dtype(agent, dtype)
        return {name: loss(agent, batch, None, method)[0] for name, (loss, batch, method, _) in CASES.items()}

    return {dtype: jax.device_get(compute(tiny.agent(), dtype)) for dtype in ("float32", "bfloat16")}


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_near_float32(losses, name):
    half, full = float(losses["bfloat16"][name]), float(losses["float32"][name])
    assert half == pytest.approx(full, rel=0.05)
    assert half != full


SWITCHES = {
    "default": DEFAULT,
    "no projector": Method(project=False),
    "heavy": dataclasses.replace(DEFAULT, nll_weight=2.0, entropy_weight=3.0, cycle=False),
    "official": METHODS["official"],
}


@pytest.fixture(scope="module")
def joint():
    """Metrics of stage 3 under every switch, of stage 3 without text-only rows, and of stage 2."""

    @jax.jit
    def compute(agent):
        found = {name: joint_loss(agent, MIXED, None, method)[1] for name, method in SWITCHES.items()}
        found["no text"] = joint_loss(agent, MixedBatch(PAIRED, None), None, DEFAULT)[1]
        found["projector"] = projector_loss(agent, PAIRED, None, DEFAULT)[1]
        found["inverse"] = inverse_loss(agent, PAIRED, None, DEFAULT)[1]
        return found

    return jax.device_get(compute(tiny.agent()))


@pytest.mark.parametrize("name", ["default", "heavy"])
def test_the_joint_loss_is_the_weighted_sum_of_its_parts(joint, name):
    m, method = joint[name], SWITCHES[name]
    entropies = m["entropy_paired"] + m["entropy_text"]
    parts = m["ce_paired"] + m["ce_text"] + m["nll"] + m["cycle"] - method.entropy_weight * entropies
    assert m["loss"] == pytest.approx(parts, rel=1e-5)
    nlls = joint["projector"]["nll_text_to_image"] + joint["projector"]["nll_image_to_text"]
    assert m["nll"] == pytest.approx(method.nll_weight * nlls, rel=1e-5)


def test_the_paired_half_is_stage_one(joint):
    assert joint["default"]["ce_paired"] == pytest.approx(joint["inverse"]["ce"], rel=1e-6)


def test_ablations_change_what_they_name(joint):
    assert joint["heavy"]["cycle"] == 0
    assert joint["default"]["cycle"] > 0
    assert joint["no projector"]["cycle"] == 0
    assert joint["no projector"]["ce_text"] != joint["default"]["ce_text"]
    assert joint["no projector"]["ce_paired"] == joint["default"]["ce_paired"]
    assert "ce_text" not in joint["no text"]
    assert joint["no text"]["ce_paired"] == pytest.approx(joint["default"]["ce_paired"], rel=1e-6)


def test_official_reads_the_difference_to_the_start(joint):
    """On right-padded rows no target follows padding: the readout alone changes the loss."""
    assert joint["official"]["ce_paired"] != pytest.approx(joint["default"]["ce_paired"], rel=1e-3)


def test_named_methods():
    official, paper = METHODS["official"], METHODS["paper"]
    readouts = [reading.readout for reading in (official.learning, official.acting, official.generating)]
    assert readouts == ["delta", "block", "block"]
    assert [official.acting.project, official.generating.project] == [True, False]
    assert official.after_padding
    assert (paper.sft, official.sft, DEFAULT.sft) == ("released", "released", "joint")
    without = Method(project=False)
    assert not any(reading.project for reading in (without.learning, without.acting, without.generating))


def test_what_reinforcement_learning_trains():
    assert LATENT.trains(tiny.CONFIG, DEFAULT) == {"latent.policy": True}
    official = LATENT.trains(tiny.CONFIG, METHODS["official"])
    assert official == {"latent.policy": True, "backbone.norm": True}
    assert TOKEN.trains(tiny.CONFIG, DEFAULT) == dict.fromkeys(TOP, True) | {"backbone.blocks": Last(1)}


def test_the_share_of_trained_blocks_follows_the_depth():
    assert [DEFAULT.trained_blocks(layers) for layers in (36, 28, 6, 2)] == [8, 7, 2, 1]
    untied = dataclasses.replace(tiny.CONFIG, text=dataclasses.replace(tiny.CONFIG.text, tied=False))
    parts = STAGES["sft_token"].trains(untied, dataclasses.replace(DEFAULT, sft_blocks=2))
    assert parts["backbone.blocks"] == Last(2)
    assert parts["backbone.lm_head"]


def test_stages_are_declared_with_their_losses():
    assert list(STAGES) == [name for name in CASES if " " not in name]
    for name, stage in STAGES.items():
        loss, batch, _, _ = CASES[name]
        assert (stage.name, stage.objective, stage.mixed) == (name, loss.__wrapped__, batch is MIXED)
        assert (stage.noise is not None) == (name in ("inverse", "joint"))


def test_passes_of_stage_five():
    """Only the guided recipe has two: the second trains the policy on the backbone that the first has made."""
    guided = dataclasses.replace(DEFAULT, sft="guided")
    assert list(LATENT.sft(DEFAULT)) == list(LATENT.sft(RELEASED)) == ["sft"]
    assert list(LATENT.sft(guided)) == ["sft", "sft_clone"]
    assert [stage.name for stage in TOKEN.sft(guided).values()] == ["sft_token"]
    trained = [set(stage.trains(tiny.CONFIG, guided)) for stage in LATENT.sft(guided).values()]
    assert trained == [{"backbone.vision", *TOP}, {"latent.policy"}]

    def metrics(stage):
        return jax.eval_shape(lambda agent: stage.loss(agent, PAIRED, None, guided)[1], tiny.agent())

    found = [sorted(metrics(stage)) for stage in LATENT.sft(guided).values()]
    assert found == [["ce", "loss"], ["accuracy", "cloning", "loss"]]


def test_the_guided_recipe_needs_its_pass():
    guided = dataclasses.replace(DEFAULT, sft="guided")
    with pytest.raises(ValueError, match="part='predict', then with part='clone'"):
        latent_sft_loss(tiny.agent(), PAIRED, None, guided)


def test_guided_passes_split_the_joint_recipe():
    """Pass A is its cross-entropy, pass B its cloning; only response targets count."""

    @jax.jit
    def compute(agent, batch):
        parts = {part: latent_sft_loss(agent, batch, None, DEFAULT, part)[0] for part in ("predict", "clone", "joint")}
        return parts | {"token": token_sft_loss(agent, batch, None, DEFAULT)[0]}

    one = compute(tiny.agent(), PAIRED)
    assert float(one["joint"]) == pytest.approx(float(one["predict"] + one["clone"]), rel=1e-6)
    # The last target of the first row is no longer part of the answer.
    shorter = PAIRED.replace(response=PAIRED.response.at[0, 11].set(False))
    two = compute(tiny.agent(), shorter)
    assert all(float(one[name]) != float(two[name]) for name in one)
    nothing = compute(tiny.agent(), PAIRED.replace(response=jnp.zeros_like(PAIRED.response)))
    assert not any(float(value) for value in nothing.values())


def test_learn_trains_the_codes_too_and_is_one_pass():
    learn = dataclasses.replace(DEFAULT, sft="learn")
    assert LATENT.sft(learn) == {"sft": SFT_LEARN}
    assert [stage.name for stage in TOKEN.sft(learn).values()] == ["sft_token"]
    assert sorted(SFT_LEARN.trains(tiny.CONFIG, learn)) == sorted(["backbone.vision", *TOP, "latent.policy", *LEARNERS])


@functools.cache
def noisy_step(gumbel, steps=4):
    """A step of stage 1 under a setting of the noise, and its first state."""
    method = dataclasses.replace(DEFAULT, gumbel=gumbel)
    trainable, frozen = partition(tiny.agent(), STAGES["inverse"].trains(tiny.CONFIG, method))
    optimiser = make_optimiser(OptimiserConfig(lr=1e-3), 10)
    create = functools.partial(TrainState.create, trainable, optimiser, jax.random.key(0))
    return Step(STAGES["inverse"], frozen, optimiser, method, steps=steps), create


def cross_entropy_at(gumbel, number):
    step, create = noisy_step(gumbel)
    return float(step(create().replace(step=jnp.int32(number)), PAIRED)[1]["ce"])


def test_noise_off_is_the_loss_without_noise_at_every_step():
    without = float(inverse_loss(tiny.agent(), PAIRED, None, DEFAULT)[1]["ce"])
    assert cross_entropy_at("off", 0) == cross_entropy_at("off", 3) == pytest.approx(without, rel=1e-5)
    assert cross_entropy_at("on", 0) != pytest.approx(without, rel=1e-4)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_annealed_noise_falls_linearly_by_the_step(number):
    """The loss of step s of 4 is that of the full noise times 1 - s/4."""
    noise = jax.random.gumbel(jax.random.fold_in(jax.random.key(0), number), (2, LENGTH, tiny.LATENT.codes))
    expected = float(inverse_loss(tiny.agent(), PAIRED, (1 - number / 4) * noise, DEFAULT)[1]["ce"])
    assert cross_entropy_at("annealed", number) == pytest.approx(expected, rel=1e-5)


def test_annealed_noise_does_not_compile_a_program_a_step():
    step, create = noisy_step("annealed")
    before = step._step._cache_size()
    for number in (0, 1, 2, 3, 9):
        step(create().replace(step=jnp.int32(number)), PAIRED)
    assert step._step._cache_size() - before <= 1
    without = float(inverse_loss(tiny.agent(), PAIRED, None, DEFAULT)[1]["ce"])
    assert cross_entropy_at("annealed", 9) == pytest.approx(without, rel=1e-5)


def test_annealed_noise_needs_the_number_of_steps():
    with pytest.raises(ValueError, match="'annealed': Step of inverse needs the phase's number of steps"):
        noisy_step("annealed", None)
    assert {METHODS[name].gumbel for name in METHODS} == {"on"}


def test_noise_is_drawn_anew_at_every_step_and_the_same_in_every_run():
    step, create, _ = stage_step("joint")

    def first(number):
        return float(step(create().replace(step=jnp.int32(number)), MIXED)[1]["ce_paired"])

    assert first(0) == first(0)
    assert first(0) != pytest.approx(first(1), rel=1e-4)
