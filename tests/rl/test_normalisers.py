"""Normalisers by hand, and their invariance to accumulation steps and devices (all but BNPO's)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lam_jax.rl import ALGORITHMS, count_batch, loss_denominator, policy_loss
from lam_jax.rl.normalisers import loss_numerator

T_MAX = 10
# Row lengths 1, 3, 0, 4: losses 6; 1+2+3; (masked); 4 * 1.
LOSSES = jnp.array([[6, 0, 0, 0], [1, 2, 3, 0], [7, 7, 7, 7], [1, 1, 1, 1]], jnp.float32)
MASK = jnp.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)


def value(normaliser, local_batches=1):
    counts = count_batch(MASK, local_batches=local_batches)
    numerator = loss_numerator(normaliser, LOSSES, MASK, local_batches)
    return float(numerator / loss_denominator(normaliser, counts, T_MAX))


def test_values_by_hand():
    assert value("sequence_mean") == pytest.approx((6 + 2 + 0 + 1) / 4)
    assert value("max_length") == pytest.approx(16 / (4 * T_MAX))
    assert value("global_tokens") == pytest.approx(16 / 8)
    assert value("local_tokens") == pytest.approx(16 / 8)


def test_local_tokens_depends_on_how_the_batch_is_cut():
    """Two local batches: (6 + 6) / 4 and 4 / 4, mean 2 (as uncut, by chance); four: 6, 2, 0, 1, mean 2.25."""
    assert value("local_tokens", 2) == pytest.approx((12 / 4 + 4 / 4) / 2)
    assert value("local_tokens", 4) == pytest.approx((6 + 2 + 0 + 1) / 4)


def test_rows_that_pad_the_batch_are_not_sequences():
    real = jnp.array([True, True, False, True])
    counts = count_batch(MASK, real=real)
    assert float(counts.sequences) == 3
    assert float(loss_denominator("max_length", counts, T_MAX)) == 3 * T_MAX


def test_uneven_local_batches_are_refused():
    with pytest.raises(ValueError, match="4 sequences cannot be cut into 3"):
        value("local_tokens", 3)


def batch(rows=16, width=6):
    keys = jax.random.split(jax.random.key(3), 4)
    logps, old, ref = (-jnp.abs(jax.random.normal(k, (rows, width))) for k in keys[:3])
    lengths = jnp.arange(rows) % (width + 1)  # 0 among them
    mask = jnp.arange(width)[None, :] < lengths[:, None]
    return logps, old, ref, jax.random.normal(keys[3], (rows,)), mask


@partial(jax.jit, static_argnames=("name", "local_batches"))
def loss_and_gradient(name, arrays, denominator, local_batches=1):
    def loss_of(logps):
        return policy_loss(ALGORITHMS[name], logps, *arrays[1:], denominator, local_batches=local_batches)[0]

    return jax.value_and_grad(loss_of)(arrays[0])


def accumulated(name, arrays, steps):
    """Sum of the micro-batches' losses, and their gradients put together."""
    cuts = [jnp.split(x, steps) for x in arrays]
    counts = [count_batch(mask) for mask in cuts[-1]]
    total = jax.tree.map(lambda *xs: sum(xs[1:], start=xs[0]), *counts)
    denominator = loss_denominator(ALGORITHMS[name].normaliser, total, T_MAX)
    parts = [loss_and_gradient(name, [c[i] for c in cuts], denominator) for i in range(steps)]
    return sum(float(loss) for loss, _ in parts), jnp.concatenate([gradient for _, gradient in parts])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo", "cispo"])
def test_invariant_to_gradient_accumulation(name):
    arrays = batch()
    whole_loss, whole_gradient = accumulated(name, arrays, 1)
    for steps in (2, 8):
        loss, gradient = accumulated(name, arrays, steps)
        assert loss == pytest.approx(whole_loss, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(gradient, whole_gradient, rtol=1e-5, atol=1e-8)


def test_bnpo_depends_on_accumulation_unless_local_batches_are_fixed():
    arrays = batch()
    one, _ = accumulated("bnpo", arrays, 1)
    four, four_gradient = accumulated("bnpo", arrays, 4)
    assert abs(one - four) > 1e-3
    denominator = loss_denominator("local_tokens", count_batch(arrays[-1], local_batches=4), T_MAX)
    loss, gradient = loss_and_gradient("bnpo", arrays, denominator, local_batches=4)
    assert float(loss) == pytest.approx(four, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, four_gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "bnpo"])
def test_invariant_to_the_number_of_devices(name):
    """Under jit the rows of a sharded batch are one global batch; BNPO's units are fixed by `local_batches`."""
    arrays = batch()
    local_batches = 4 if name == "bnpo" else 1

    @jax.jit
    def run(*arrays):
        counts = count_batch(arrays[-1], local_batches=local_batches)
        denominator = loss_denominator(ALGORITHMS[name].normaliser, counts, T_MAX)
        return loss_and_gradient(name, arrays, denominator, local_batches)

    loss, gradient = run(*arrays)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded_loss, sharded_gradient = run(*(jax.device_put(x, NamedSharding(mesh, P("data"))) for x in arrays))
    assert len(sharded_gradient.sharding.device_set) == 8
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sharded_gradient, gradient, rtol=1e-5, atol=1e-8)


def test_metrics_merge_over_micro_batches():
    logps, old, ref, advantages, mask = batch()
    one = jnp.float32(1.0)
    whole = policy_loss(ALGORITHMS["grpo"], logps, old, ref, advantages, mask, one)[1].means()
    halves = [
        policy_loss(ALGORITHMS["grpo"], *(x[part] for x in (logps, old, ref, advantages, mask)), one)[1]
        for part in (slice(0, 8), slice(8, 16))
    ]
    for name, merged in halves[0].merge(halves[1]).means().items():
        np.testing.assert_allclose(merged, whole[name], rtol=1e-5)
