"""AdamW, clipping and schedules against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.parallel.mesh import make_mesh
from lam_jax.train.optimiser import OptimiserConfig, global_norm, make_optimiser, make_schedule
from lam_jax.train.partition import partition
from lam_jax.train.state import TrainState


def adamw(weights, gradients, lrs, *, clip=1.0, b1=0.9, b2=0.999, eps=1e-8, decay=0.0):
    """The textbook, in float64, torch's order: decay, moments, bias correction."""
    w = np.array(weights, np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        g = np.array(g, np.float64)
        g = g * min(1.0, clip / (np.linalg.norm(g) + 1e-6))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - lr * decay * w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_follow_adamw_with_torch_clipping(decay, key):
    config = OptimiserConfig(1e-2, "cosine", warmup_fraction=0.25, final_fraction=0.1, weight_decay=decay)
    optimiser = make_optimiser(config, steps=8)
    weights = {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array([3.0])}
    gradients = [np.array([2.0, -0.3, 0.1, 0.5]) * scale for scale in (1, 0.1, 10, -1, 1e-3, 1, 1, 1)]
    state = TrainState.create(weights, optimiser, key)
    step = jax.jit(lambda state, g: state.apply_gradients(g, optimiser))
    lrs = []
    for g in gradients:
        state, metrics = step(state, {"w": jnp.array(g[:3], jnp.float32), "b": jnp.array(g[3:], jnp.float32)})
        lrs.append(float(metrics["lr"]))
        assert math.isclose(metrics["grad_norm"], np.linalg.norm(g), rel_tol=1e-6)
    expected = adamw([0.5, -1.0, 2.0, 3.0], gradients, lrs, decay=decay)
    found = np.concatenate([state.trainable["w"], state.trainable["b"]])
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert lrs[0] == 0.0
    assert max(lrs) == pytest.approx(1e-2)
    assert int(state.step) == 8


def test_first_update_norm_is_the_rate_times_root_of_size(key):
    optimiser = make_optimiser(OptimiserConfig(1e-3), steps=1)
    state = TrainState.create({"w": jnp.ones(16)}, optimiser, key)
    _, metrics = state.apply_gradients({"w": jnp.full(16, 0.2)}, optimiser)
    assert float(metrics["update_norm"]) == pytest.approx(4e-3, rel=1e-5)
    assert float(metrics["lr"]) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("schedule", "final", "expected"),
    [
        ("constant", 0.0, {0: 0.0, 5: 0.5, 10: 1.0, 55: 1.0, 99: 1.0}),
        ("linear", 0.0, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 99: 1 / 90, 100: 0.0, 120: 0.0}),
        ("cosine", 0.0, {5: 0.5, 10: 1.0, 55: 0.5, 40: 0.75, 100: 0.0}),
        ("cosine", 0.1, {10: 1.0, 55: 0.55, 100: 0.1, 300: 0.1}),
    ],
)
def test_schedules_pass_through_their_known_points(schedule, final, expected):
    rate = make_schedule(OptimiserConfig(2.0, schedule, 0.1, final), steps=100)
    for step, share in expected.items():
        assert float(rate(jnp.int32(step))) == pytest.approx(2 * share, abs=1e-6)


def test_warm_up_rounds_up():
    rate = make_schedule(OptimiserConfig(1.0, "linear", warmup_fraction=0.03), steps=50)
    assert [float(rate(jnp.int32(t))) for t in range(3)] == [0.0, 0.5, 1.0]


def test_moments_exist_for_trained_weights_only_and_share_their_placement(key):
    mesh = make_mesh((2, 2, 2))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "tensor"))
    params = {"a": jax.device_put(jnp.ones((4, 4)), sharding), "frozen": jnp.ones(1000)}
    trainable, _ = partition(params, {"a": True})
    optimiser = make_optimiser(OptimiserConfig(1e-3), steps=5)
    state = TrainState.create(trainable, optimiser, key)
    moments = [leaf for leaf in jax.tree.leaves(state.optimiser_state) if leaf.ndim]
    assert [leaf.shape for leaf in moments] == [(4, 4), (4, 4)]
    assert all(leaf.sharding.is_equivalent_to(sharding, 2) for leaf in moments)


def test_master_weights_must_be_fp32():
    with pytest.raises(TypeError, match=r"layer\.w: found master weight of bfloat16, expected float32"):
        make_optimiser(OptimiserConfig(1e-3), 1).init({"layer": {"w": jnp.ones(2, jnp.bfloat16)}})


def test_norm_runs_in_fp32():
    """41 / 4096 is what bf16 makes of 0.01; a norm in bf16 would keep three digits of the result."""
    norm = global_norm([jnp.full(9_000, 0.01, jnp.bfloat16), None])
    assert float(norm) == pytest.approx(math.sqrt(9_000) * 41 / 4096, rel=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.0), ("schedule", "step"), ("warmup_fraction", 1.5), ("b2", 1.0), ("weight_decay", -1.0)],
)
def test_bad_settings_are_refused_by_name(field, value):
    # A wrong literal is caught one line earlier here than in production, by the type checks that tests turn on.
    with pytest.raises((ValueError, TypeError), match=f"{field}(: found|')"):
        OptimiserConfig(**{"lr": 1e-3, field: value})
