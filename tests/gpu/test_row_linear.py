"""The kernels for few rows, interpreted, against NumPy in float64; and rollouts that run with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.gpu import row_linear as module
from lam_jax.gpu.row_linear import RowGatedMLP, RowHead, RowLinear, gated, pack, row_linear, row_logits
from lam_jax.gpu.tiles import MOST_ROWS, PROCESSORS, Tiles, candidates, choose_tiles
from lam_jax.latent.agent import Reading
from lam_jax.nn.layers import GatedMLP, Head, Linear, packed
from lam_jax.nn.layout import PLAIN, Layout, laid_out_by
from lam_jax.nn.weight import materialize
from lam_jax.rollout.actions import LatentActions, TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import jitted
from lam_jax.rollout.sampling import SamplingConfig
from tests import tiny
from tests.tiny import Row, make_batch, words

# Columns, depth and splits that divide 96 x 64, and some that divide nothing.
EVEN, ODD = Tiles(columns=32, depth=16, splits=2), Tiles(columns=32, depth=32, splits=3, swapped=True, early=True)
# Rows, kernel, tiles; every case in both dtypes.
CASES = [
    (16, (96, 64), EVEN),
    (7, (96, 64), ODD),
    (33, (101, 77), EVEN),
    (1, (101, 77), ODD),
    (3, (40, 24), None),
    (MOST_ROWS + 5, (40, 24), None),
]


def normal(seed, shape, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def wide(x):
    return np.asarray(x.astype(jnp.float32), np.float64)


def close(found, expected, dtype, roundings=1):
    """Within so many roundings of `dtype`, and what float32 sums of a hundred products leave."""
    unit = {jnp.float32: 2.0**-24, jnp.bfloat16: 2.0**-8}[dtype]
    np.testing.assert_allclose(wide(found), expected, rtol=roundings * unit * 1.01, atol=2e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("rows", "shape", "tiles"), CASES)
def test_row_linear(rows, shape, tiles, dtype):
    x, kernel, bias = normal(0, (rows, shape[0]), dtype), normal(1, shape, dtype), normal(2, shape[1:], dtype)
    expected = wide(x) @ wide(kernel)
    for given, more in ((None, 0), (bias, wide(bias))):
        found = row_linear(x, kernel, given, tiles=tiles, interpret=True)
        assert found.dtype == dtype
        close(found, expected + more, dtype)
        close(module.linear_by_xla(x, kernel, given), expected + more, dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("rows", "shape", "tiles"), CASES)
def test_row_logits(rows, shape, tiles, dtype):
    x, table = normal(0, (rows, shape[0]), dtype), normal(1, shape[::-1], dtype)
    found = row_logits(x, table, tiles=tiles, interpret=True)
    assert found.dtype == jnp.float32
    close(found, wide(x) @ wide(table).T, jnp.float32)
    close(module.logits_by_xla(x, table), wide(x) @ wide(table).T, jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("rows", "shape", "tiles"), [*CASES, (5, (101, 77), Tiles(columns=16, depth=64))])
def test_gated(rows, shape, tiles, dtype):
    x, gate, up = (normal(i, s, dtype) / 8 for i, s in enumerate(((rows, shape[0]), shape, shape)))
    found = gated(x, gate, up, tiles=tiles, interpret=True)
    a, b = wide(x) @ wide(gate), wide(x) @ wide(up)
    assert found.dtype == dtype
    # Those of both products and of the result; that of the gate counts more than once in silu.
    close(found, a / (1 + np.exp(-a)) * b, dtype, roundings=4)
    close(module.gated_by_xla(x, gate, up), wide(found), dtype, roundings=4)


def test_splits_are_not_finished_by_the_kernel():
    x, kernel = jnp.ones((4, 32)), jnp.ones((32, 32))
    with pytest.raises(ValueError, match="2 splits cannot be finished"):
        module.row_products(x, (kernel,), Tiles(splits=2), finish=lambda y: y, interpret=True)


@pytest.mark.parametrize("rows", [1, 8, 32, 256])
@pytest.mark.parametrize(("inputs", "outputs"), [(2048, 2560), (2048, 11008), (11008, 2048), (3584, 151936)])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_chosen_tiles_fit_the_shared_memory_of_an_h100(rows, inputs, outputs, itemsize):
    for kernels in (1, 2):
        tiles = choose_tiles(rows, inputs, outputs, itemsize, kernels)
        assert shared_memory(tiles, rows, itemsize, kernels) <= 227 * 1024
        assert tiles.splits * tiles.depth <= inputs
        assert all(n & (n - 1) == 0 for n in (tiles.columns, tiles.depth, tiles.warps))


@pytest.mark.parametrize(("outputs", "inputs", "kernels", "least"), [
    (2560, 2048, 1, 0.9), (2048, 2048, 1, 0.95), (11008, 2048, 2, 0.85), (2048, 11008, 1, 0.95),
])  # fmt: skip
def test_chosen_programs_keep_the_multiprocessors_busy(outputs, inputs, kernels, least):
    """3B's maps at 32 rows: nearly whole multiples of 132 programs, which fit beside each other."""
    tiles = choose_tiles(32, inputs, outputs, 2, kernels)
    programs = -(-outputs // tiles.columns) * tiles.splits
    waves = -(-programs // PROCESSORS)
    assert programs >= least * waves * PROCESSORS
    assert waves * shared_memory(tiles, 32, 2, kernels) <= 227 * 1024
    assert candidates(32, inputs, outputs, 2, kernels)[0] == tiles


def shared_memory(tiles, rows, itemsize, kernels):
    return tiles.stages * tiles.depth * (max(rows, 16) + kernels * tiles.columns) * itemsize


def made(specs):
    return materialize(specs, jax.random.key(0))


INTERPRETED = functools.partial(pack, interpret=True, least=1)


@pytest.mark.parametrize("lead", [(), (3,), (2, 2, 1), (MOST_ROWS + 1,)])
def test_packed_modules_equal_the_plain_ones(lead):
    bias = made(Linear.spec(32, 48, (None, None), bias=True)).replace(bias=jnp.arange(48.0))
    modules = [bias, made(GatedMLP.spec(32, 48)), Head(normal(3, (80, 32), jnp.float32))]
    x = normal(0, (*lead, 32), jnp.float32)
    with laid_out_by(Layout(pack=INTERPRETED)):
        converted = packed(modules)
    assert [type(m) for m in converted] == [RowLinear, RowGatedMLP, RowHead]
    assert converted[0].inputs == 32
    for ours, plain in zip(converted, modules, strict=True):
        assert ours(x).shape == plain(x).shape
        np.testing.assert_allclose(ours(x), plain(x), rtol=1e-5, atol=1e-5)
        by_xla = ours.replace(interpret=False)  # no GPU here
        np.testing.assert_allclose(by_xla(x), plain(x), rtol=1e-5, atol=1e-5)


def test_what_does_not_pay_stays():
    small, mlp = made(Linear.spec(32, 48, (None, None))), made(GatedMLP.spec(32, 48, bias=True))
    assert pack(small) is None
    assert pack(Head(small.kernel)) is None
    with laid_out_by(Layout(pack=INTERPRETED)):
        converted = packed(mlp)  # biases: as its maps, not as a whole
    assert isinstance(converted, GatedMLP)
    assert {type(m) for m in (converted.gate, converted.up, converted.down)} == {RowLinear}
    np.testing.assert_allclose(converted(jnp.ones((5, 32))), mlp(jnp.ones((5, 32))), atol=1e-5)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["latent", "token"])
def test_a_rollout_by_the_kernels_is_the_plain_one(name, monkeypatch):
    calls = []
    products = module.row_products
    monkeypatch.setattr(module, "row_products", lambda *a, **k: calls.append(a[2]) or products(*a, **k))
    agent = tiny.agent()
    space = LatentActions(agent, Reading()) if name == "latent" else TokenActions(agent.backbone)
    prompts = make_batch([Row(words(5), ((1, 4, 4),)), Row(words(9, seed=1))], 12, left=True)
    config = RolloutConfig(samples=2, length=5, segment=5, sampling=SamplingConfig(top_k=4), stop=False)
    given = (space, prompts, jnp.arange(4, dtype=jnp.int32).reshape(2, 2), jax.random.key(3))
    plain, ours = (
        jitted(*given, config=config, mesh=None, layout=layout)
        for layout in (PLAIN, Layout(joined=True, unrolled=2**40, pack=INTERPRETED))
    )
    assert calls
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    np.testing.assert_allclose(ours.logps, plain.logps, atol=1e-5)
    np.testing.assert_allclose(ours.hidden, plain.hidden, atol=1e-4)
