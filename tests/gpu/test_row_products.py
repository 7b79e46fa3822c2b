"""The kernel for few rows, interpreted, against NumPy in float64; and how its work is cut."""

import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.gpu.row_products import row_products
from lam_jax.gpu.tiles import MOST_ROWS, PROCESSORS, SHARED, Tiles, candidates, choose_tiles, step_bytes, within

# Columns, depth and splits that divide 96 x 64, and some that divide nothing.
EVEN, ODD = Tiles(columns=32, depth=16, splits=2), Tiles(columns=32, depth=32, splits=3, swapped=True, early=True)
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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("rows", "shape", "tiles"), CASES)
def test_the_parts_add_up_to_the_product(rows, shape, tiles, dtype):
    """In float32: of rounded numbers only the sums are rounded."""
    x, kernel = normal(0, (rows, shape[0]), dtype), normal(1, shape, dtype)
    tiles = tiles or choose_tiles(rows, *shape)
    parts = row_products(x, kernel, tiles=tiles, interpret=True)
    assert (parts.shape, parts.dtype) == ((tiles.splits, rows, shape[1]), jnp.float32)
    np.testing.assert_allclose(wide(parts).sum(axis=0), wide(x) @ wide(kernel), rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 8, 32, MOST_ROWS])
@pytest.mark.parametrize(("inputs", "outputs"), [(2048, 2560), (11008, 2048), (3584, 4608), (18944, 3584)])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_chosen_tiles_fit_the_shared_memory_of_an_h100(rows, inputs, outputs, itemsize):
    tiles = choose_tiles(rows, inputs, outputs, itemsize)
    assert shared_memory(tiles, rows, itemsize) <= 227 * 1024
    assert tiles.splits * tiles.depth <= inputs
    assert all(n & (n - 1) == 0 for n in (tiles.columns, tiles.depth, tiles.warps))


@pytest.mark.parametrize(("outputs", "inputs", "least"), [(2560, 2048, 0.9), (2048, 2048, 0.95), (2048, 11008, 0.95)])
def test_chosen_programs_keep_the_multiprocessors_busy(outputs, inputs, least):
    """3B's maps at 32 rows: nearly whole multiples of 132 programs, which fit beside each other."""
    tiles = choose_tiles(32, inputs, outputs, 2)
    programs = -(-outputs // tiles.columns) * tiles.splits
    waves = -(-programs // PROCESSORS)
    assert programs >= least * waves * PROCESSORS
    assert waves * shared_memory(tiles, 32, 2) <= 227 * 1024
    assert candidates(32, inputs, outputs, 2)[0] == tiles


def shared_memory(tiles, rows, itemsize):
    return tiles.stages * tiles.depth * (max(rows, 16) + tiles.columns) * itemsize


@pytest.mark.parametrize("itemsize", [2, 4])
def test_stages_keep_to_a_card_s_shared_memory(itemsize):
    """An Ada card's is less than half of an H100's."""
    for rows, inputs, outputs in ((32, 2048, 2560), (MOST_ROWS, 11008, 2048), (MOST_ROWS, 18944, 3584)):
        tiles = choose_tiles(rows, inputs, outputs, itemsize)
        assert within(tiles, rows, itemsize, SHARED) == tiles
        small = within(tiles, rows, itemsize, 99 * 2**10)
        assert 2 <= small.stages <= tiles.stages
        assert small.stages * step_bytes(small, rows, itemsize) <= 99 * 2**10
