"""The choice of a mesh for rollouts by its cost, by hand."""

import dataclasses
import itertools
import math

import pytest

from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.models.families import PRESETS
from lam_jax.nn.weight import Weight
from lam_jax.parallel import make_mesh
from lam_jax.parallel.cards import CARDS, chip_of_kind
from lam_jax.parallel.chips import CHIPS, Chip
from lam_jax.parallel.choose_mesh import Load
from lam_jax.parallel.choose_rollout_mesh import (
    Decoding,
    check_rollout_mesh,
    choose_rollout_mesh,
    parse_rollout_mesh,
    step_cost,
)
from lam_jax.parallel.mesh import reshaped
from lam_jax.train.counting import decoding_of

# 1 s to read 1000 bytes, 1 s a byte sent, 0.01 s a hop in a line.
CHIP = Chip("made up", flops=1.0, hbm=1e6, hbm_bandwidth=1000.0, link_bandwidth=1.0, hop=0.01, torus=1)
WORK = Decoding(
    attention=800.0,
    others=7200.0,
    position=1.0,
    kv_heads=2,
    prompts=4,
    samples=2,
    prompt=100,
    completion=99,
    layers=4,
    sums=2,
    sum_bytes=0.0,
)
LOAD = Load({"a": Weight((8, 8), ("mlp", None)), "q": Weight((8, 8), (None, "heads"))}, rows=3, prompts=4, samples=2)


@pytest.mark.parametrize(
    ("shape", "positions", "weights", "hops"),
    [
        ((8, 1, 1, 1), 1 * (100 + 2 * 50), 8000, 0),
        ((4, 2, 1, 1), 1 * (100 + 1 * 50), 8000, 0),
        ((2, 2, 1, 2), 2 * (100 + 1 * 50) / 2, 4000, 10 * 2 * 1),  # a kv head for each of two
        ((1, 1, 1, 8), 4 * (100 + 2 * 50) / 2, 1000, 10 * 2 * 7),  # two kv heads for eight
        # Attention in halves, all else in fourths, a sample each; of a layer two sums over two at once, there and back.
        ((2, 1, 2, 2), 2 * (100 + 1 * 50) / 2, 400 + 1800, 8 * 1 + 4 * (1 + 1) + 2 * 2 * 3),
        ((4, 1, 2, 1), 1 * (100 + 1 * 50), 800 + 3600, 4 * (1 + 1) + 2 * 2 * 1),
    ],
)
def test_a_step_reads_weights_and_caches_and_waits(shape, positions, weights, hops):
    cost = step_cost(shape, WORK, CHIP)
    assert cost.reading == pytest.approx((weights + positions) / 1000)
    assert cost.latency == pytest.approx(hops * 0.01)
    assert cost.total == pytest.approx(cost.reading + cost.latency)


def test_activations_are_sent_at_the_links_rate():
    """Of a mesh (2, 1, 4) two prompts of two samples, 5 bytes each, twice three quarters of it in each sum."""
    work = dataclasses.replace(WORK, sum_bytes=5.0)
    assert step_cost((2, 1, 1, 4), work, CHIP).sending == pytest.approx(10 * 2 * 0.75 * 4 * 5)
    # Of 2 x 2 shards a layer fetches two samples of one other, twice, gathers four, and scatters the sums of four.
    parts = 8 * 1 * 2 * 5 + 4 * (0.5 + 0.5) * 4 * 5 + 2 * 2 * 0.75 * 4 * 5
    assert step_cost((2, 1, 2, 2), work, CHIP).sending == pytest.approx(parts)


def test_the_cheapest_that_divides_is_chosen():
    totals = {}
    for shape in itertools.product((1, 2, 4, 8), repeat=4):
        if math.prod(shape) == 8 and shape[1] * shape[2] <= 2:
            totals[shape] = step_cost(shape, WORK, CHIP).total
    best = min(totals, key=totals.get)
    choice = choose_rollout_mesh(LOAD, WORK, (8, 1, 1), CHIP)
    assert choice.shape == best != (8, 1, 1, 1)
    assert f"{totals[best] * 1e3:.2f} ms" in str(choice)
    slow = dataclasses.replace(CHIP, hop=10.0)
    assert choose_rollout_mesh(LOAD, WORK, (8, 1, 1), slow).shape == (8, 1, 1, 1)


def test_a_mesh_that_saves_little_is_not_taken():
    near = dataclasses.replace(CHIP, hop=0.0)
    light = dataclasses.replace(WORK, attention=4.0, others=4.0, position=0.0)
    assert choose_rollout_mesh(LOAD, light, (8, 1, 1), near).shape == (1, 1, 1, 8)
    # Two devices a prompt read half of its caches each, of twice as many prompts: only of the weights they save 10.
    even = dataclasses.replace(
        light, attention=10.0, others=10.0, position=1.0, prompts=8, samples=1, prompt=1000, completion=1
    )
    assert choose_rollout_mesh(LOAD, even, (8, 1, 1), near).shape == (8, 1, 1, 1)


def test_unknown_devices_keep_the_mesh_of_training():
    choice = choose_rollout_mesh(LOAD, WORK, (8, 1, 1), chip_of_kind("cpu"))
    assert choice.shape == (8, 1, 1, 1)
    assert "nothing is known of these devices" in str(choice)
    assert chip_of_kind("TPU v5 lite") is CHIPS["v5e"]
    assert chip_of_kind("NVIDIA H100 80GB HBM3") is CARDS["h100"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 4), r"data 1, fsdp 1, tensor 4 has 4 devices, but the mesh of training, .* product is 8"),
        ((2, 4, 1), r"'samples' .* of size 2 .* fsdp"),
        ((1, 1, 8), None),
        ((4, 1, 2, 1), None),
        ((2, 1, 4, 1), r"'samples' .* of size 2 .* wide"),
        ((8, 1, 1), None),  # three rows of training do not matter
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(shape, message):
    if message is None:
        check_rollout_mesh(shape, (2, 2, 2), LOAD)
        return
    with pytest.raises(ValueError, match=message):
        check_rollout_mesh(shape, (2, 2, 2), LOAD)


def test_the_same_devices_in_the_same_order():
    mesh = make_mesh((2, 2, 2))
    other = reshaped(mesh, (1, 1, 8))
    assert list(other.devices.flat) == list(mesh.devices.flat)
    assert other.shape == {"data": 1, "fsdp": 1, "tensor": 8}
    assert reshaped(mesh, (2, 2, 2)) is reshaped(mesh, (2, 2, 1, 2)) is mesh
    assert reshaped(mesh, (1, 1, 4, 2)).shape == {"data": 1, "fsdp": 1, "wide": 4, "tensor": 2}
    with pytest.raises(ValueError, match="has 4 devices, expected 8"):
        reshaped(mesh, (2, 2, 1))


@pytest.mark.parametrize(
    ("chip", "count", "box", "hops"),
    [
        ("v5e", 16, (4, 4), 6),
        ("v5e", 8, (2, 4), 4),
        ("v5e", 256, (16, 16), 16),  # of 16 the last is linked to the first
        ("v5p", 64, (4, 4, 4), 6),
        ("h100", 8, (8,), 7),
    ],
)
def test_hops_of_a_box(chip, count, box, hops):
    chip = chip_of_kind({**CHIPS, **CARDS}[chip].kinds[0])
    assert chip.box(count) == box
    assert chip.hops(box) == hops


def test_latencies_are_those_of_the_sources():
    """A gather of a line of four takes three hops of 1 us, a sum twice that; NCCL: 3.6 us and 14 steps of 0.47."""
    assert CHIPS["v5e"].latency("all-gather", (4,)) == pytest.approx(3e-6)
    assert CHIPS["v5e"].latency("all-reduce", (4, 4)) == pytest.approx(12e-6)
    assert CARDS["h100"].latency("all-reduce", (8,)) == pytest.approx(3.6e-6 + 14 * 0.47e-6)
    assert CARDS["h100"].latency("all-reduce", (16,), 2) == pytest.approx(3.6e-6 + 28 * 0.47e-6 + 2 * 2.7e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", "auto"),
        ("same", "same"),
        ("1,1,16", (1, 1, 16)),
        ("data=2,tensor=8", (2, 1, 8)),
        ("wide=4, tensor=4", (1, 1, 4, 4)),
        ("wide=4,tensor=0", None),
        ("wide=4,model=2", None),
        ("most", None),
    ],
)
def test_what_the_command_line_says(text, expected):
    if expected is not None:
        assert parse_rollout_mesh(text) == expected
        return
    with pytest.raises(ValueError, match="expected 'auto', 'same', three positive sizes"):
        parse_rollout_mesh(text)


def test_the_small_model_on_a_slice_of_16():
    """What is read, by its sizes; and that the mesh that is chosen costs less than half of training's."""
    config, latent = PRESETS["qwen2_5_vl_3b"], LATENT_PRESETS["qwen2_5_vl_3b"]
    load = Load(Agent.spec(config, latent), rows=16, prompts=4, samples=8)
    work = decoding_of(config, latent, (4, 8, 1024, 1024))
    assert work.layers == 36 + 8
    assert work.sums == 5
    assert work.attention == 2 * 44 * 2048 * (2 * 2048 + 2 * 256)
    # Feed-forward, two thirds of a merge block's inputs, vocabulary, codes.
    assert work.others == 2 * (44 * 3 * 2048 * 11008 + 2 * 3 * 2048 * 11008 + 2048 * 151936 + 2048 * latent.codes)
    assert work.position == 44 * 2 * 128 * 2 * 2
    now = step_cost((2, 4, 1, 2), work, CHIPS["v5e"])
    best = choose_rollout_mesh(load, work, (2, 4, 2), CHIPS["v5e"])
    assert step_cost(best.shape, work, CHIPS["v5e"]).total < 0.5 * now.total
