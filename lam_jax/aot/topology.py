"""Devices of a TPU topology that is not attached, and meshes over them."""

import contextlib
import importlib.util
import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax

from lam_jax.aot.chips import CHIPS, Chip
from lam_jax.errors import LamJaxError
from lam_jax.parallel import make_mesh

# libtpu asks a metadata server and the PCI bus for a chip; told that there is none, it says so at once.
_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class TopologyError(LamJaxError):
    """A topology that cannot be described, or a mesh that does not fit it."""

    exit_code = 2


class MissingExtraError(LamJaxError):
    """The compiler for TPUs is not installed."""

    exit_code = 2


def chip_of(topology: str) -> Chip:
    """The chip that a topology such as "v5e:4x4" is made of.

    Raises:
        TopologyError: not of that form, or an unknown chip.
    """
    form = re.fullmatch(r"(\w+):(\d+x\d+(?:x\d+)?)", topology)
    if form is None or form[1] not in CHIPS:
        raise TopologyError(
            f"--topology: found {topology!r}, expected a chip of {sorted(CHIPS)} and the shape of its slice, "
            "for example v5e:4x4 or v5p:8x8x16."
        )
    return CHIPS[form[1]]


def topology_devices(topology: str) -> list[Any]:
    """Device descriptions of a whole slice, for which programs can be compiled but not run.

    Raises:
        TopologyError: no such topology.
        MissingExtraError: libtpu is not installed.
    """
    chip_of(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise MissingExtraError(
            "Compiling for a TPU that is not attached needs the package libtpu, which is not installed: "
            "pip install 'lam_jax[aot]'."
        )
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        with _quiet_stderr():
            description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(
            f"--topology: the TPU compiler does not know {topology!r} ({str(error).splitlines()[0]}). Check the shape: "
            "v5e and v6e slices are like 4x4 or 16x16, v4 and v5p slices like 4x4x8."
        ) from error
    return list(description.devices)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Holds back what libtpu writes on file descriptor 2 before its log level is set; shown when debugging."""
    if logging.getLogger("lam_jax").isEnabledFor(logging.DEBUG):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def topology_mesh(devices: list[Any], shape: tuple[int, int, int]) -> jax.sharding.Mesh:
    """A mesh of (data, fsdp, tensor) over all of a slice.

    Raises:
        TopologyError: the product is not the number of chips.
    """
    if math.prod(shape) != len(devices):
        raise TopologyError(
            f"--mesh: data={shape[0]}, fsdp={shape[1]}, tensor={shape[2]} is a mesh of {math.prod(shape)} chips, but "
            f"the topology has {len(devices)}: choose three sizes whose product is {len(devices)}."
        )
    return make_mesh(shape, devices)
