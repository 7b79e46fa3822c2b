"""Rows that a process makes, and global batches from them, on eight devices of one process."""

import chex
import jax
import numpy as np
import pytest

from lam_jax.parallel import ROLLOUT, TRAIN, make_mesh
from lam_jax.parallel.multihost import all_agree, from_first, gather, is_first, to_host
from lam_jax.parallel.replicated import put_replicated
from lam_jax.parallel.rows import from_own_rows, own_rows


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 8), (1, 4, 2)])
def test_one_process_holds_all_rows_and_they_come_to_their_places(shape):
    mesh = make_mesh(shape)
    rows = own_rows(mesh, TRAIN, 8)
    assert rows == tuple(range(8))
    tree = {"a": np.arange(24).reshape(8, 3), "b": np.arange(8) % 3 == 0}
    placed = from_own_rows(tree, rows, 8, mesh, TRAIN)
    chex.assert_trees_all_equal(placed, tree)
    shards = shape[0] * shape[1]
    assert placed["a"].sharding.shard_shape((8, 3)) == (8 // shards, 3)


def test_rows_in_another_order_come_to_their_places():
    mesh, rows = make_mesh((2, 2, 2)), (3, 1, 0, 2)
    placed = from_own_rows(np.array([[30], [10], [0], [20]]), rows, 4, mesh, TRAIN)
    np.testing.assert_array_equal(placed, [[0], [10], [20], [30]])


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="does not divide"):
        own_rows(make_mesh((2, 2, 2)), TRAIN, 6)
    assert own_rows(make_mesh((2, 2, 2)), ROLLOUT, 6) == tuple(range(6))


def test_values_that_all_have_alike(key):
    mesh = make_mesh((2, 2, 2))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = put_replicated({"n": np.int32(3), "key": key}, sharding)
    assert placed["n"].sharding == sharding
    assert int(placed["n"]) == 3
    assert jax.random.key_data(placed["key"]).tolist() == jax.random.key_data(key).tolist()


def test_one_process_agrees_with_itself():
    assert is_first()
    assert all_agree(True)
    assert not all_agree(False)
    assert from_first(7) == 7
    assert gather(np.arange(3)).shape == (1, 3)
    np.testing.assert_array_equal(to_host({"x": jax.numpy.arange(3)})["x"], [0, 1, 2])
