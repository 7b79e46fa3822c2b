"""Logical axes to mesh axes, on eight host devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from lam_jax.nn.layers import Linear
from lam_jax.nn.weight import Weight, stack
from lam_jax.parallel import (
    ROLLOUT,
    TRAIN,
    UPDATE,
    constrain,
    constrain_weights,
    make_mesh,
    mesh_of,
    place,
    shardings,
    use,
)
from lam_jax.parallel.rules import partition_spec


@pytest.fixture(scope="module")
def mesh():
    return make_mesh((2, 2, 2))


def test_training_shards_weights_over_fsdp_and_rollouts_do_not(mesh):
    weight = Weight((8, 12), ("embed", "mlp"))
    assert shardings(weight, mesh, TRAIN).spec == PartitionSpec(("fsdp",), ("tensor",))
    assert shardings(weight, mesh, ROLLOUT).spec == PartitionSpec(None, ("tensor",))


def test_axes_of_size_one_are_not_named():
    assert partition_spec(("batch", "mlp"), (4, 7), make_mesh((2, 1, 1)), TRAIN) == PartitionSpec("data")


def test_a_size_that_does_not_divide_is_an_error(mesh):
    with pytest.raises(ValueError, match=r"'mlp' .* of size 7 .* 2 shards.*tensor is one of 1, 7"):
        partition_spec(("embed", "mlp"), (8, 7), mesh, TRAIN)


def test_kv_heads_that_do_not_divide_are_replicated(mesh):
    assert partition_spec(("embed", "kv_heads"), (8, 3), mesh, TRAIN) == PartitionSpec("fsdp")
    assert partition_spec(("embed", "kv_heads"), (8, 4), mesh, TRAIN) == PartitionSpec("fsdp", "tensor")


def test_no_shard_cuts_a_head(mesh):
    """Three heads of four numbers: the size divides, the heads do not."""
    weight = Linear.spec(8, 12, ("embed", "heads"), bias=True, units=(None, 3))
    with pytest.raises(ValueError, match=r"'heads' \(attention heads\) of size 3"):
        shardings(weight, mesh, TRAIN)
    few = stack(Linear.spec(8, 12, ("embed", "kv_heads"), bias=True, units=(None, 3)), 5)
    placed = shardings(few, mesh, TRAIN)
    assert placed.kernel.spec == PartitionSpec(None, "fsdp")
    assert placed.bias.spec == PartitionSpec()


def test_prompts_of_an_update_lie_as_in_the_rollout(mesh):
    rows = [partition_spec(("batch", "embed"), (8, 8), mesh, rules) for rules in (ROLLOUT, UPDATE)]
    assert rows == [PartitionSpec("data"), PartitionSpec("data", "fsdp")]
    samples = [partition_spec(("prompts", "samples"), (8, 8), mesh, rules) for rules in (ROLLOUT, UPDATE)]
    assert samples == [PartitionSpec("data", "fsdp")] * 2


def test_gradients_are_pinned_to_their_weights(mesh):
    """Holes stay holes; the gradient of some of the layers lies as all of them do."""
    specs = {"a": Weight((6, 8, 4), ("layers", "embed", "mlp")), "b": Weight((8,), ("embed",))}

    @jax.jit
    def pin(tree):
        with use(mesh, TRAIN):
            return constrain_weights(tree, specs)

    pinned = pin({"a": jnp.zeros((2, 8, 4)), "b": None})
    expected = jax.sharding.NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    assert pinned["b"] is None
    assert pinned["a"].sharding.is_equivalent_to(expected, 3)
    assert mesh_of(pinned) == mesh
    assert mesh_of({"a": jnp.zeros(3)}) is None


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
        with pytest.raises(ValueError, match=r"'batch' .* of size 3 .* rows of a batch a multiple of 4"):
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
