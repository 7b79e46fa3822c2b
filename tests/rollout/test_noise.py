"""The noise of Gumbel-max sampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.rollout.noise import gumbel_noise


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
@pytest.mark.parametrize("width", [1, 7, 8192])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_equals_jax_to_the_last_bit(shape, width, impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), shape)
    found = jax.jit(gumbel_noise, static_argnums=1)(keys, width)
    if impl == "threefry2x32":
        alone = [jax.random.gumbel(key, (width,), jnp.float32) for key in keys.reshape(-1)]
        expected = jnp.stack(alone).reshape(*shape, width)
    else:  # numbers of these keys depend on how many are drawn at a time
        draw = functools.partial(jax.random.gumbel, shape=(width,), dtype=jnp.float32)
        for _ in shape:
            draw = jax.vmap(draw)
        expected = draw(keys)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.float32
