"""Rows change shards by a ring: the same rows as by indexing, and never all of them on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lam_jax.parallel import make_mesh
from lam_jax.parallel.collectives import collectives
from lam_jax.parallel.exchange import take_rows

SOURCES = [[7, 0, 3, 3, 1, 6, 2, 5], [4, 5, 6, 7]]


@pytest.mark.parametrize("source", SOURCES)
def test_rows_are_those_of_indexing(source):
    mesh = make_mesh((4, 2, 1))
    x = np.arange(8 * 2 * 3, dtype=np.float32).reshape(8, 2, 3)
    place = NamedSharding(mesh, PartitionSpec("data", "fsdp"))
    tree = {
        "x": jax.device_put(x, place),
        "y": jax.device_put(x[:, 0] > 20, NamedSharding(mesh, PartitionSpec("data"))),
    }
    found = take_rows(tree, jnp.array(source), mesh)
    np.testing.assert_array_equal(found["x"], x[np.array(source)])
    np.testing.assert_array_equal(found["y"], (x[:, 0] > 20)[np.array(source)])
    assert found["x"].sharding.is_equivalent_to(place, 3)
    moved = collectives(take_rows.lower(tree, jnp.array(source), mesh).compile().as_text())
    assert {c.kind for c in moved} == {"collective-permute"}
    assert {c.shape for c in moved if c.dtype == "f32"} == {(2, 1, 3)}


def test_one_device_needs_no_ring():
    x = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(take_rows(x, jnp.array([2, -1]), None), x[jnp.array([2, 0])])
