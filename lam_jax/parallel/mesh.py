"""Device meshes with the axes `data`, `fsdp`, `tensor`. One device is just a (1, 1, 1) mesh."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from lam_jax.errors import BadSettingError

AXES = ("data", "fsdp", "tensor")
# Rollouts may have a fourth, see `lam_jax.parallel.rules.ROLLOUT`.
WIDE = "wide"
ROLLOUT_AXES = ("data", "fsdp", WIDE, "tensor")


def make_mesh(shape: tuple[int, int, int] = (1, 1, 1), devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `shape` = (data, fsdp, tensor) over `devices` (default: the first of `jax.devices()`).

    Raises:
        BadSettingError: not three sizes, or more devices asked for than there are.
    """
    if len(shape) != len(AXES) or min(shape) < 1:
        raise BadSettingError(f"A mesh shape is three positive sizes (data, fsdp, tensor), got {shape}.")
    devices = list(jax.devices() if devices is None else devices)
    size = math.prod(shape)
    if size > len(devices):
        raise BadSettingError(
            f"Mesh {dict(zip(AXES, shape))} needs {size} devices, but there are {len(devices)}: choose sizes whose "
            f"product is at most {len(devices)}."
        )
    # jax.make_mesh refuses axes that lie across the axes of a pod's torus on every chip but v5e.
    placed = mesh_utils.create_device_mesh(shape, devices[:size], allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def reshaped(mesh: Mesh, shape: tuple[int, ...]) -> Mesh:
    """The same devices in the same order under other sizes; the mesh itself where they are its own.

    In another order a program could not take what lies on the one mesh and leave it on the other.

    Args:
        mesh: of `AXES`.
        shape: of `AXES`, or of `ROLLOUT_AXES`.

    Raises:
        BadSettingError: another number of devices.
    """
    if len(shape) == len(ROLLOUT_AXES) and shape[2] == 1:
        shape = (*shape[:2], shape[3])
    axes = AXES if len(shape) == len(AXES) else ROLLOUT_AXES
    if math.prod(shape) != mesh.size:
        raise BadSettingError(
            f"Mesh {dict(zip(axes, shape))} has {math.prod(shape)} devices, expected {mesh.size}, those of "
            f"{dict(mesh.shape)}: choose sizes whose product is {mesh.size}."
        )
    if shape == tuple(mesh.shape.values()):
        return mesh
    return Mesh(mesh.devices.reshape(shape), axes, axis_types=(AxisType.Auto,) * len(axes))


def places_of(mesh: Mesh) -> tuple[tuple[int, ...], ...]:
    """Where each device lies in its torus, in that order; none of devices without one, such as cards."""
    places = [getattr(device, "coords", None) for device in mesh.devices.flat]
    return tuple(tuple(place) for place in places if place is not None) if None not in places else ()
