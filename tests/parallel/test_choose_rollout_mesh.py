"""The choice of a mesh for rollouts by its cost, by hand."""

import dataclasses
import itertools

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
    step_cost,
)
from lam_jax.parallel.mesh import reshaped
from lam_jax.train.counting import decoding_of

# 1 s to read 1000 bytes, 1 s a byte sent, 0.01 s a hop in a line.
CHIP = Chip("made up", flops=1.0, hbm=1e6, hbm_bandwidth=1000.0, link_bandwidth=1.0, hop=0.01, torus=1)
WORK = Decoding(
    weights=8000.0, position=1.0, kv_heads=2, prompts=4, samples=2, prompt=100, completion=99, sums=10, sum_bytes=0.0
)
LOAD = Load({"a": Weight((8, 8), ("mlp", None)), "q": Weight((8, 8), (None, "heads"))}, rows=3, prompts=4, samples=2)


@pytest.mark.parametrize(
    ("shape", "positions", "weights", "hops"),
    [
        ((8, 1, 1), 1 * (100 + 2 * 50), 8000, 0),
        ((4, 2, 1), 1 * (100 + 1 * 50), 8000, 0),
        ((2, 2, 2), 2 * (100 + 1 * 50) / 2, 4000, 2 * 1),  # a kv head for each of two
        ((1, 1, 8), 4 * (100 + 2 * 50) / 2, 1000, 2 * 7),  # two kv heads for eight
    ],
)
def test_a_step_reads_weights_and_caches_and_waits(shape, positions, weights, hops):
    cost = step_cost(shape, WORK, CHIP)
    assert cost.reading == pytest.approx((weights + positions) / 1000)
    assert cost.latency == pytest.approx(10 * hops * 0.01)
    assert cost.total == pytest.approx(cost.reading + cost.latency)


def test_activations_are_sent_at_the_links_rate():
    """Of a mesh (2, 1, 4) two prompts of two samples, 5 bytes each, twice three quarters of it in each sum."""
    cost = step_cost((2, 1, 4), dataclasses.replace(WORK, sum_bytes=5.0), CHIP)
    assert cost.sending == pytest.approx(10 * 2 * 0.75 * 4 * 5)


def test_the_cheapest_that_divides_is_chosen():
    """Eight shards read 1.4 s and wait for 1.4 s; four read 2.1 to 2.4 and wait for 0.6."""
    totals = {}
    for data, fsdp, tensor in itertools.product((1, 2, 4, 8), repeat=3):
        if data * fsdp * tensor == 8 and fsdp <= 2:
            totals[data, fsdp, tensor] = step_cost((data, fsdp, tensor), WORK, CHIP).total
    best = min(totals, key=totals.get)
    choice = choose_rollout_mesh(LOAD, WORK, (8, 1, 1), CHIP)
    assert choice.shape == best == (1, 2, 4) or choice.shape == best == (2, 1, 4)
    assert f"{totals[best] * 1e3:.2f} ms" in str(choice)
    slow = dataclasses.replace(CHIP, hop=10.0)
    assert choose_rollout_mesh(LOAD, WORK, (8, 1, 1), slow).shape == (8, 1, 1)


def test_a_mesh_that_saves_little_is_not_taken():
    near = dataclasses.replace(CHIP, hop=0.0)
    light = dataclasses.replace(WORK, weights=8.0, position=0.0, sums=0)
    assert choose_rollout_mesh(LOAD, light, (8, 1, 1), near).shape == (1, 1, 8)
    # Two devices a prompt read half of its caches each, of twice as many prompts: only of the weights they save 10.
    even = dataclasses.replace(light, weights=20.0, position=1.0, prompts=8, samples=1, prompt=1000, completion=1)
    assert choose_rollout_mesh(LOAD, even, (8, 1, 1), near).shape == (8, 1, 1)


def test_unknown_devices_keep_the_mesh_of_training():
    choice = choose_rollout_mesh(LOAD, WORK, (8, 1, 1), chip_of_kind("cpu"))
    assert choice.shape == (8, 1, 1)
    assert "nothing is known of these devices" in str(choice)
    assert chip_of_kind("TPU v5 lite") is CHIPS["v5e"]
    assert chip_of_kind("NVIDIA H100 80GB HBM3") is CARDS["h100"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 4), r"data 1 x fsdp 1 x tensor 4 has 4 devices, but the mesh of training, .* product is 8"),
        ((2, 4, 1), r"'samples' .* of size 2 .* fsdp"),
        ((1, 1, 8), None),
        ((8, 1, 1), None),  # three rows of training do not matter
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(shape, message):
    if message is None:
        return check_rollout_mesh(shape, (2, 2, 2), LOAD)
    with pytest.raises(ValueError, match=message):
        check_rollout_mesh(shape, (2, 2, 2), LOAD)


def test_the_same_devices_in_the_same_order():
    mesh = make_mesh((2, 2, 2))
    other = reshaped(mesh, (1, 1, 8))
    assert list(other.devices.flat) == list(mesh.devices.flat)
    assert other.shape == {"data": 1, "fsdp": 1, "tensor": 8}
    assert reshaped(mesh, (2, 2, 2)) is mesh
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


def test_the_small_model_on_a_slice_of_16():
    """Not by hand: what is chosen there, and that it costs what the parts say."""
    config, latent = PRESETS["qwen2_5_vl_3b"], LATENT_PRESETS["qwen2_5_vl_3b"]
    load = Load(Agent.spec(config, latent), rows=16, prompts=4, samples=8)
    work = decoding_of(config, latent, (4, 8, 1024, 1024))
    assert work.sums == 93
    # 36 + 8 layers, 2 kv heads of 128, keys and values, 2 bytes
    assert work.position == 44 * 2 * 128 * 2 * 2
    now, best = step_cost((2, 4, 2), work, CHIPS["v5e"]), choose_rollout_mesh(load, work, (2, 4, 2), CHIPS["v5e"])
    assert step_cost(best.shape, work, CHIPS["v5e"]).total < 0.5 * now.total
