"""Residual sum and norm in one kernel, interpreted, against NumPy in float64 with the plain path's roundings."""

import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.gpu.add_norm import add_norm
from lam_jax.gpu.parts import Parts
from lam_jax.nn.layers import RMSNorm

# Rows, width, parts, bias, and the size of the numbers: of small ones the epsilon decides.
CASES = [(3, 64, 4, False, 1.0), (5, 40, 1, False, 1.0), (2, 96, 3, True, 1.0), (2, 64, 2, False, 1e-3)]


def rounded(x, dtype):
    return np.asarray(jnp.asarray(x, jnp.float32).astype(dtype).astype(jnp.float32), np.float64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("rows", "width", "count", "biased", "size"), CASES)
def test_add_norm(rows, width, count, biased, size, dtype):
    rng = np.random.default_rng(0)
    scale, bias = (rounded(rng.normal(size=width), dtype) for _ in range(2))
    x = rounded(size * rng.normal(size=(rows, width)), dtype)
    sums = (size * rng.normal(size=(count, rows, width))).astype(np.float32)
    parts = Parts(jnp.asarray(sums), jnp.asarray(bias, dtype) if biased else None)
    given = (jnp.asarray(x, dtype), parts, jnp.asarray(scale, dtype))
    y, h = add_norm(*given, epsilon=1e-5, interpret=True)
    assert y.dtype == h.dtype == jnp.dtype(dtype)

    product = rounded(sums.astype(np.float64).sum(0), dtype)
    total = rounded(x + (rounded(product + bias, dtype) if biased else product), dtype)
    normed = rounded(total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-5), dtype)
    # A float32 sum may round to the other side.
    exact = dtype == "float32"
    np.testing.assert_allclose(y.astype(jnp.float32), total, rtol=1e-6 if exact else 2**-7, atol=2e-6)
    np.testing.assert_allclose(h.astype(jnp.float32), scale * normed, rtol=3e-6 if exact else 2**-6, atol=2e-6)
    plain = given[0] + parts.whole(dtype)
    np.testing.assert_allclose(y.astype(jnp.float32), plain.astype(jnp.float32), rtol=2**-7, atol=2e-6)
    norm = RMSNorm(given[2], 1e-5)
    np.testing.assert_allclose(h.astype(jnp.float32), norm(plain).astype(jnp.float32), rtol=2**-6, atol=2e-6)


def test_a_single_part_may_be_rounded_already():
    x, scale = jnp.linspace(-1, 1, 64, dtype=jnp.bfloat16).reshape(2, 32), jnp.ones(32, jnp.bfloat16)
    y, _ = add_norm(x, Parts(x[None]), scale, epsilon=1e-6, interpret=True)
    np.testing.assert_array_equal(y.astype(jnp.float32), 2 * x.astype(jnp.float32))
