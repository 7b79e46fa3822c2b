"""Weights that wait on the host come back bit for bit, where they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lam_jax.parallel import make_mesh
from lam_jax.parallel.parked import OnHost, Parking, park, rest


def tree(mesh=None):
    values = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    weights = jnp.asarray(values)
    if mesh is not None:
        weights = jax.device_put(values, NamedSharding(mesh, PartitionSpec("data", "tensor")))
    return {"w": weights, "half": jnp.asarray(values[0], jnp.bfloat16), "step": jnp.int32(3), "none": None}, values


@pytest.mark.parametrize("shape", [None, (2, 1, 2)])
def test_weights_rest_in_the_compute_dtype_and_come_back(shape):
    mesh = None if shape is None else make_mesh(shape)
    before, values = tree(mesh)
    sharding = before["w"].sharding
    resting, wake = rest(before, jnp.bfloat16)
    assert before["w"].is_deleted(), "its devices' memory is free"
    assert resting["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(resting["w"], values.astype(jnp.bfloat16))
    assert (resting["half"] is before["half"], resting["step"] is before["step"]) == (True, True)
    for _ in range(2):
        again = wake()
        np.testing.assert_array_equal(again["w"], values)
        assert again["w"].sharding == sharding
        assert again["none"] is None


def test_where_the_dtype_is_the_weights_own_nothing_moves():
    before, _ = tree()
    before.pop("half")
    resting, wake = rest(before, jnp.float32)
    assert resting["w"] is before["w"]
    assert park(before, jnp.float32)()["w"] is wake()["w"] is before["w"]


@pytest.mark.parametrize("shape", [None, (2, 1, 2)])
def test_a_copy_on_the_host_outlives_what_it_is_of(shape):
    mesh = None if shape is None else make_mesh(shape)
    before, values = tree(mesh)
    sharding = before["w"].sharding
    copy = OnHost(before)
    jax.jit(lambda x: x + 1, donate_argnums=0)(before["w"])
    found = copy.restore()
    np.testing.assert_array_equal(found["w"], values)
    assert (found["w"].sharding, found["none"]) == (sharding, None)


def test_a_copy_on_the_host_takes_nothing_on_the_devices():
    def buffers():
        return {x.unsafe_buffer_pointer() for x in jax.live_arrays()}

    before, _ = tree()
    known = buffers()
    copy = OnHost(before)
    assert buffers() == known
    assert copy.restore()["w"] is not before["w"]


def test_what_is_not_parked_stays():
    before, values = tree()
    parking = Parking(before)
    parking.park(before["w"])
    assert before["w"].is_deleted()
    again = parking.wake()
    np.testing.assert_array_equal(again["w"], values)
    assert again["half"] is before["half"]
