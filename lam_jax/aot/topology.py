"""Names of topologies that are not attached, the devices that programs are compiled for, and meshes over them."""

import math
import re
from typing import Any

import jax

from lam_jax.errors import LamJaxError
from lam_jax.parallel import make_mesh
from lam_jax.parallel.cards import CARDS, Card
from lam_jax.parallel.chips import CHIPS, Chip


class TopologyError(LamJaxError):
    """A topology that cannot be described, or a mesh that does not fit it."""

    exit_code = 2


class MissingExtraError(LamJaxError):
    """The compiler for these devices is not installed, or not the one of this jax."""

    exit_code = 2


def chip_of(topology: str) -> Chip:
    """The chip that a topology such as "v5e:4x4" is made of, or the card of one such as "h100:8".

    Raises:
        TopologyError: not of that form, or an unknown chip or card.
    """
    name, _, shape = topology.partition(":")
    if name in CARDS and re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", shape):
        return CARDS[name]
    if name in CHIPS and re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        return CHIPS[name]
    if name in CARDS:
        raise TopologyError(
            f"--topology: found {topology!r}, expected {name} and a number of cards, for example {name}:8 for one host "
            f"of 8, or hosts x cards: {name}:2x8 for two hosts of 8."
        )
    if name in CHIPS:
        raise TopologyError(
            f"--topology: found {topology!r}, expected {name} and the shape of a slice, for example v5e:4x4 or "
            "v5p:8x8x16."
        )
    raise TopologyError(
        f"--topology: found {topology!r}, expected a TPU chip of {sorted(CHIPS)} and the shape of its slice, for "
        f"example v5e:4x4 or v5p:8x8x16, or an NVIDIA card of {sorted(CARDS)} and how many, for example h100:8 or, "
        "with two hosts, h100:2x8."
    )


def topology_devices(topology: str) -> list[Any]:
    """Device descriptions of a whole topology, for which programs can be compiled but not run.

    Raises:
        TopologyError: no such topology.
        MissingExtraError: its compiler is not installed.
    """
    # Here and not above: these import the errors of this module.
    from lam_jax.aot.compilers import gpu_devices, tpu_devices

    chip = chip_of(topology)
    if not isinstance(chip, Card):
        return tpu_devices(topology)
    *hosts, cards = (int(size) for size in topology.partition(":")[2].split("x"))
    return gpu_devices(chip, hosts[0] if hosts else 1, cards)


def hosts_of(mesh: jax.sharding.Mesh) -> tuple[int, ...]:
    """The host of each device, in the order in which a compiled program numbers them."""
    return tuple(device.process_index for device in mesh.devices.flat)


def topology_mesh(devices: list[Any], shape: tuple[int, int, int]) -> jax.sharding.Mesh:
    """A mesh of (data, fsdp, tensor) over all of a topology.

    Raises:
        TopologyError: the product is not the number of chips.
    """
    if math.prod(shape) != len(devices):
        raise TopologyError(
            f"--mesh: data={shape[0]}, fsdp={shape[1]}, tensor={shape[2]} is a mesh of {math.prod(shape)} chips, but "
            f"the topology has {len(devices)}: choose three sizes whose product is {len(devices)}."
        )
    return make_mesh(shape, devices)
