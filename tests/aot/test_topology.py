"""Names of topologies and what is said when the compiler for them is missing."""

import importlib.util

import jax
import pytest

from lam_jax.aot.chips import CHIPS
from lam_jax.aot.topology import MissingExtraError, TopologyError, chip_of, topology_devices, topology_mesh


def test_chips_by_topology():
    assert chip_of("v5e:4x4") is CHIPS["v5e"]
    assert chip_of("v5p:8x8x16") is CHIPS["v5p"]


@pytest.mark.parametrize("name", ["v9z:4x4", "v5e", "v5e-16", "v5e:4", "4x4", ""])
def test_unknown_topologies_are_named_with_the_known_chips(name):
    with pytest.raises(TopologyError, match=rf"found '{name}', expected a chip of \['v5e', 'v5p', 'v6e'\]"):
        chip_of(name)


def test_a_missing_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lam_jax\[aot\]'"):
        topology_devices("v5e:4x4")


def test_a_mesh_covers_the_slice():
    assert dict(topology_mesh(jax.devices(), (2, 2, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    with pytest.raises(TopologyError, match="a mesh of 4 chips, but the topology has 8: choose three sizes"):
        topology_mesh(jax.devices(), (2, 2, 1))
