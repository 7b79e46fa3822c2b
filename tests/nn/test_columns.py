"""Maps in blocks of columns equal the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn import columns
from lam_jax.nn.columns import LEAST, BlockLinear, in_blocks
from lam_jax.nn.layers import GatedMLP, Linear
from lam_jax.nn.weight import materialize


def made(specs):
    return materialize(specs, jax.random.key(0))


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(columns.os, "cpu_count", lambda: 2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lead", [(), (3,), (2, 4, 1)])
def test_equals_the_plain_map(bias, lead):
    outputs = 3 * LEAST + 1
    linear = made(Linear.spec(24, outputs, (None, None), bias))
    linear = linear.replace(bias=jnp.arange(float(outputs))) if bias else linear
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*lead, 24)).astype(np.float32))
    converted = BlockLinear.create(linear)
    assert [block.shape for block in converted.blocks] == [(193, 24), (192, 24)]
    assert converted(x).shape == (*lead, outputs)
    np.testing.assert_allclose(converted(x), linear(x), atol=1e-5)


def test_a_module_keeps_small_maps():
    mlp = made(GatedMLP.spec(24, 2 * LEAST))
    converted = in_blocks(mlp)
    assert [type(m) for m in (converted.gate, converted.up, converted.down)] == [BlockLinear, BlockLinear, Linear]
    x = jnp.ones((5, 24))
    np.testing.assert_allclose(converted(x), mlp(x), atol=1e-6)


def test_other_backends_keep_plain_maps(monkeypatch):
    monkeypatch.setattr(columns.jax, "default_backend", lambda: "gpu")
    assert isinstance(in_blocks(made(Linear.spec(24, 2 * LEAST, (None, None)))), Linear)
