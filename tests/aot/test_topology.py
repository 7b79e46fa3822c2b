"""Names of topologies and what is said when the compiler for them is missing or does not fit."""

import importlib.util
from importlib import metadata

import jax
import pytest

from lam_jax.aot.topology import MissingExtraError, TopologyError, chip_of, topology_devices, topology_mesh
from lam_jax.parallel.cards import CARDS
from lam_jax.parallel.chips import CHIPS


def test_chips_by_topology():
    assert chip_of("v5e:4x4") is CHIPS["v5e"]
    assert chip_of("v5p:8x8x16") is CHIPS["v5p"]


def test_cards_by_topology():
    assert chip_of("h100:8") is chip_of("h100:2x8") is CARDS["h100"]
    assert chip_of("a100-40gb:1") is CARDS["a100-40gb"]


@pytest.mark.parametrize("name", ["v9z:4x4", "b100:8", "v5e-16", "4x4", ""])
def test_unknown_topologies_are_named_with_the_known_chips_and_cards(name):
    with pytest.raises(TopologyError) as caught:
        chip_of(name)
    assert str(caught.value) == (
        f"--topology: found {name!r}, expected a TPU chip of ['v5e', 'v5p', 'v6e'] and the shape of its slice, for "
        "example v5e:4x4 or v5p:8x8x16, or an NVIDIA card of ['a100', 'a100-40gb', 'h100', 'h200', 'l40s', 'rtx4090'] "
        "and how many, for example h100:8 or, with two hosts, h100:2x8."
    )


@pytest.mark.parametrize("name", ["h100", "h100:", "h100:0", "h100:2x2x2", "h100:2x0", "h100:x8", "h100:-8"])
def test_wrong_shapes_of_cards_say_what_a_shape_is(name):
    with pytest.raises(TopologyError, match=r"expected h100 and a number of cards, .* h100:2x8 for two hosts of 8"):
        chip_of(name)


@pytest.mark.parametrize("name", ["v5e", "v5e:4", "v5e:2x2x2x2"])
def test_wrong_shapes_of_slices_say_what_a_shape_is(name):
    with pytest.raises(TopologyError, match="expected v5e and the shape of a slice, for example v5e:4x4"):
        chip_of(name)


def test_a_missing_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lam_jax\[aot\]'"):
        topology_devices("v5e:4x4")


def test_a_missing_plugin_names_the_extra(installed):
    installed({"jaxlib": "0.10.2", "jax-cuda13-pjrt": "0.10.2"})
    with pytest.raises(MissingExtraError, match=r"needs jax-cuda13-plugin, not installed here: .*'lam_jax\[aot-gpu\]'"):
        topology_devices("h100:8")
    installed({"jaxlib": "0.10.2"})
    with pytest.raises(MissingExtraError, match="needs jax-cuda13-plugin and jax-cuda13-pjrt, not installed"):
        topology_devices("h100:8")


def test_a_plugin_of_another_jax_is_refused(installed):
    installed({"jax": "0.10.2", "jaxlib": "0.10.2", "jax-cuda13-plugin": "0.9.1", "jax-cuda13-pjrt": "0.10.2"})
    expected = r"jax leaves jax-cuda13-plugin 0.9.1 unused beside jaxlib 0.10.2, .* 'jax\[cuda13-local\]==0.10.2'"
    with pytest.raises(MissingExtraError, match=expected):
        topology_devices("rtx4090:1")


@pytest.fixture
def installed(monkeypatch):
    """Sets the versions that are installed."""

    def set_versions(versions):
        def version(package):
            if package not in versions:
                raise metadata.PackageNotFoundError(package)
            return versions[package]

        monkeypatch.setattr(metadata, "version", version)

    return set_versions


def test_a_mesh_covers_the_slice():
    assert dict(topology_mesh(jax.devices(), (2, 2, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    with pytest.raises(TopologyError, match="a mesh of 4 chips, but the topology has 8: choose three sizes"):
        topology_mesh(jax.devices(), (2, 2, 1))
