"""Maps in tiles of columns equal the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn import tiled
from lam_jax.nn.layers import GatedMLP, Linear
from lam_jax.nn.tiled import COLUMNS, TiledLinear, tile
from lam_jax.nn.weight import materialize


def made(specs):
    return materialize(specs, jax.random.key(0))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lead", [(), (3,), (2, 4, 1)])
def test_equals_the_plain_map(bias, lead):
    linear = made(Linear.spec(24, 3 * COLUMNS, (None, None), bias))
    linear = linear.replace(bias=jnp.arange(3.0 * COLUMNS)) if bias else linear
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*lead, 24)).astype(np.float32))
    converted = TiledLinear.create(linear)
    assert converted.kernel.shape == (3, 24, COLUMNS)
    assert converted(x).shape == (*lead, 3 * COLUMNS)
    np.testing.assert_allclose(converted(x), linear(x), atol=1e-5)


def test_a_module_keeps_the_maps_that_are_not_whole_tiles():
    mlp = made(GatedMLP.spec(24, 2 * COLUMNS))
    converted = tile(mlp)
    assert [type(m) for m in (converted.gate, converted.up, converted.down)] == [TiledLinear, TiledLinear, Linear]
    x = jnp.ones((5, 24))
    np.testing.assert_allclose(converted(x), mlp(x), atol=1e-6)


def test_other_backends_keep_plain_maps(monkeypatch):
    monkeypatch.setattr(tiled.jax, "default_backend", lambda: "gpu")
    assert isinstance(tile(made(Linear.spec(24, COLUMNS, (None, None)))), Linear)
