"""Logical axes to mesh axes, on eight host devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from lam_jax.nn.weight import Weight
from lam_jax.parallel import ROLLOUT, TRAIN, constrain, make_mesh, place, shardings, use
from lam_jax.parallel.rules import partition_spec


@pytest.fixture(scope="module")
def mesh():
    return make_mesh((2, 2, 2))


def test_training_shards_weights_over_fsdp_and_rollouts_do_not(mesh):
    weight = Weight((8, 12), ("embed", "mlp"))
    assert shardings(weight, mesh, TRAIN).spec == PartitionSpec(("fsdp",), ("tensor",))
    assert shardings(weight, mesh, ROLLOUT).spec == PartitionSpec(None, ("tensor",))


def test_axes_of_size_one_are_not_named():
    assert partition_spec(("batch", "mlp"), (4, 7), make_mesh((2, 1, 1)), TRAIN) == PartitionSpec(("data",), None)


def test_a_size_that_does_not_divide_is_an_error(mesh):
    with pytest.raises(ValueError, match=r"'mlp' of size 7 .* 2 shards"):
        partition_spec(("embed", "mlp"), (8, 7), mesh, TRAIN)


def test_kv_heads_that_do_not_divide_are_replicated(mesh):
    assert partition_spec(("embed", "kv_heads"), (8, 3), mesh, TRAIN) == PartitionSpec(("fsdp",), None)
    assert partition_spec(("embed", "kv_heads"), (8, 4), mesh, TRAIN) == PartitionSpec(("fsdp",), ("tensor",))


def test_unknown_axis_is_an_error(mesh):
    with pytest.raises(ValueError, match=r"'width' of .* is not in the rules table"):
        partition_spec(("width",), (8,), mesh, TRAIN)


def test_a_mesh_axis_used_twice_is_an_error(mesh):
    with pytest.raises(ValueError, match=r"\['tensor'\] twice"):
        partition_spec(("heads", "mlp"), (8, 8), mesh, TRAIN)


def test_constrain_acts_inside_use_only(mesh):
    x = jnp.zeros((4, 6))
    assert constrain(x, "nonsense", None) is x
    with use(mesh, TRAIN):
        pinned = jax.jit(lambda x: constrain(x, "batch", None))(x)
        with pytest.raises(ValueError, match="'batch' of size 3"):
            constrain(jnp.zeros((3, 6)), "batch", None)
    assert pinned.sharding.is_equivalent_to(
        jax.sharding.NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), pinned.ndim
    )


def test_place_shards_the_leading_dimension(mesh):
    placed = place({"tokens": jnp.zeros((8, 3))}, mesh, TRAIN)["tokens"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}


def test_impossible_meshes_are_refused():
    with pytest.raises(ValueError, match="needs 16 devices, but there are 8"):
        make_mesh((4, 2, 2))
    with pytest.raises(ValueError, match="three positive sizes"):
        make_mesh((2, 0, 1))
