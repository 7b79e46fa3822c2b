"""The compilers for devices that are not attached: libtpu for TPUs, jax's plugin for NVIDIA cards.

Neither runs anything here nor touches a device of the machine: both get a description of the devices instead.
"""

import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from lam_jax.aot.topology import MissingExtraError, TopologyError
from lam_jax.parallel.cards import Card

# libtpu asks a metadata server and the PCI bus for a chip; told that there is none, it says so at once.
_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
# Beside the plugin its compiler, both of the version of jaxlib: jax itself leaves another plugin unused.
GPU_PACKAGES = ("jax-cuda13-plugin", "jax-cuda13-pjrt")
# By compute capability a card that Pallas knows; it does not know all of ours by name (L40S).
_KNOWN = {"8.0": "NVIDIA A100", "8.9": "NVIDIA L40", "9.0": "NVIDIA H100"}


def tpu_devices(topology: str) -> list[Any]:
    """Devices of a TPU slice.

    Raises:
        TopologyError: libtpu does not know the shape.
        MissingExtraError: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise MissingExtraError(
            "Compiling for a TPU that is not attached needs the package libtpu, which is not installed: "
            "pip install 'lam_jax[aot]'."
        )
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        return _describe("tpu", topology)
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(
            f"--topology: the TPU compiler does not know {topology!r} ({str(error).splitlines()[0]}). Check the shape: "
            "v5e and v6e slices are like 4x4 or 16x16, v4 and v5p slices like 4x4x8."
        ) from error


def gpu_devices(card: Card, hosts: int, cards: int) -> list[Any]:
    """`cards` of a kind in each of `hosts`.

    Raises:
        TopologyError: the compiler refuses the card.
        MissingExtraError: jax's plugin for CUDA is not installed, or is not of jaxlib's version.
    """
    check_plugin()
    try:
        return _describe("cuda", card.name, topology=f"1x{hosts}x{cards}", target_config=card.target_config)
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(
            f"--topology: the compiler for GPUs refuses {card.name} ({str(error).splitlines()[0]})."
        ) from error


@contextlib.contextmanager
def compiling_for(mesh: Mesh) -> Iterator[None]:
    """Around tracing, lowering and compiling of a program for `mesh`, whose devices may be described ones.

    Pallas asks for the card that its kernels are for: since jax 0.11 the abstract mesh, else the default device.
    """
    kind = _KNOWN.get(getattr(mesh.devices.flat[0], "compute_capability", ""))
    if mesh.size > 1 or kind is None or not hasattr(jax.sharding, "AbstractDevice"):
        yield
        return
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        yield


def check_plugin() -> None:
    """Whether jax's plugin for CUDA can be used.

    Raises:
        MissingExtraError: it is missing, or of another version than jaxlib.
    """
    wanted = metadata.version("jaxlib")
    found = {package: _version(package) for package in GPU_PACKAGES}
    if missing := [package for package, version in found.items() if version is None]:
        raise MissingExtraError(
            f"Compiling for NVIDIA cards that are not attached needs {' and '.join(missing)}, not installed here: "
            "pip install 'lam_jax[aot-gpu]' (no driver and no other package of NVIDIA's is needed)."
        )
    if wrong := [f"{package} {version}" for package, version in found.items() if version != wanted]:
        raise MissingExtraError(
            f"jax leaves {' and '.join(wrong)} unused beside jaxlib {wanted}, expected the same version: "
            f"pip install 'jax[cuda13-local]=={metadata.version('jax')}'."
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _describe(platform: str, name: str, **options: Any) -> list[Any]:
    from jax.experimental import topologies

    with _quiet_stderr():
        return list(topologies.get_topology_desc(platform=platform, topology_name=name, **options).devices)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Holds back what the compilers write on file descriptor 2 before their log level is set; shown when debugging."""
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
