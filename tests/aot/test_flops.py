"""The counter against numbers worked out by hand: two operations for every multiply-add."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from lam_jax.aot.flops import count_flops, kernel_flops
from lam_jax.parallel import make_mesh

ROWS, WIDTH, LAYERS = 4, 8, 3
PRODUCT = 2 * ROWS * WIDTH * WIDTH


def flops(function, *arguments, **options):
    return count_flops(jax.jit(function).trace(*arguments).jaxpr, **options)


@pytest.fixture
def x():
    return jnp.ones((ROWS, WIDTH))


@pytest.fixture
def stacked():
    return jnp.ones((LAYERS, WIDTH, WIDTH))


def test_a_product_and_a_batched_product(x):
    assert flops(lambda x: x @ jnp.ones((WIDTH, 5)), x) == 2 * ROWS * WIDTH * 5
    assert flops(lambda q, k: jnp.einsum("bthd,bshd->bhts", q, k), *[jnp.ones((2, 3, 5, 7))] * 2) == 2 * 2 * 5 * 9 * 7


def test_elementwise_work_is_not_counted(x):
    assert flops(lambda x: jnp.tanh(x) + x.sum(), x) == 0


def test_a_scan_counts_every_trip(x, stacked):
    assert flops(lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0], x, stacked) == LAYERS * PRODUCT


def test_a_loop_of_fixed_length_inside_a_loop_on_data(x, stacked):
    def decode(x, w):
        def segment(x):
            return jax.lax.fori_loop(0, 5, lambda _, x: x @ w[0], x)

        return jax.lax.while_loop(lambda x: jnp.sum(x) < 10, segment, x)

    assert flops(decode, x, stacked) == 5 * PRODUCT
    assert flops(decode, x, stacked, while_trips=7) == 7 * 5 * PRODUCT


def test_of_branches_the_dearest_counts(x, stacked):
    def either(x, w):
        return jax.lax.cond(jnp.sum(x) > 0, lambda x: x @ w[0] @ w[1], lambda x: x @ w[0], x)

    assert flops(either, x, stacked) == 2 * PRODUCT


def run(x, w, remat):
    def layer(x, w):
        return (jnp.tanh(x @ w), None)

    return jnp.sum(jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, w)[0])


def test_a_gradient_costs_two_products_more_and_remat_one_again(x, stacked):
    both = jax.grad(run, argnums=(0, 1))
    assert flops(lambda x, w: both(x, w, False), x, stacked) == 3 * LAYERS * PRODUCT
    assert flops(lambda x, w: both(x, w, True), x, stacked) == 4 * LAYERS * PRODUCT


def test_functions_with_their_own_gradients_are_entered(x):
    @jax.custom_vjp
    def doubled(x):
        return 2 * (x @ x.T)

    doubled.defvjp(lambda x: (doubled(x), x), lambda x, g: (g @ x,))
    product = 2 * ROWS * ROWS * WIDTH
    assert flops(doubled, x) == product
    assert flops(jax.grad(lambda x: jnp.sum(doubled(x))), x) == 2 * product


def squared(x, flops):
    """A kernel whose body looks like more: two programs, each a product and a loop of unknown length."""
    cost = None if flops is None else pl.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=0)

    def kernel(x, y):
        y[...] = jax.lax.while_loop(lambda y: jnp.sum(y) < 0, lambda y: y @ y, x[...] @ x[...])

    return pl.pallas_call(kernel, out_shape=x, grid=(2,), cost_estimate=cost, interpret=True)(x)


def test_a_kernel_costs_what_it_says():
    x, other = jnp.ones((WIDTH, WIDTH)), jnp.ones((ROWS, ROWS))

    def twice(x, other):
        return jax.lax.scan(lambda x, _: (squared(x, 70), None), x, length=3)[0], squared(other, 50)

    assert flops(twice, x, other, while_trips=100) == 3 * 70 + 50
    jaxpr = jax.jit(twice).trace(x, other).jaxpr
    assert kernel_flops(jaxpr) == {((WIDTH, WIDTH),): 70, ((ROWS, ROWS),): 50}


def test_kernels_that_cannot_be_counted():
    x = jnp.ones((WIDTH, WIDTH))
    with pytest.raises(ValueError, match="says no cost"):
        flops(lambda x: squared(x, None), x)
    jaxpr = jax.jit(lambda x: squared(squared(x, 1), 2)).trace(x).jaxpr
    with pytest.raises(ValueError, match="cost 1 and 2"):
        kernel_flops(jaxpr)


def test_a_convolution():
    picture, kernel = jnp.ones((2, 3, 10, 10)), jnp.ones((4, 3, 5, 5))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID")

    assert flops(convolve, picture, kernel) == 2 * (2 * 4 * 6 * 6) * (3 * 5 * 5)


def test_work_inside_shard_map_counts_on_every_device(x):
    mesh = make_mesh((2, 2, 1))
    spec = jax.sharding.PartitionSpec("data")
    halved = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"data"})
    assert flops(halved, x) == 2 * (2 * (ROWS // 2) ** 2 * WIDTH)
