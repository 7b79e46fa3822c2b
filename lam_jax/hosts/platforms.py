"""Keeps jax from starting the TPU runtime on a machine that has no TPU, where libtpu only writes complaints to stderr.

libtpu is installed there for `lam-jax compile` (the extra `aot`), and jax tries every platform that is installed.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterable
from pathlib import Path

import jax

GOOGLE = "0x1ae0"  # vendor of TPUs on the PCI bus
GPU_DEVICES = tuple(map(Path, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")))


def leave_absent_tpu_out() -> None:
    """Settles for the CPU where libtpu is installed and nothing else than a CPU can be found.

    Does nothing where platforms were chosen, or where an accelerator may be there: what jax says of one then, such as
    that its support is not installed, is news.
    """
    if jax.config.jax_platforms or importlib.util.find_spec("libtpu") is None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    if not (has_tpu() or has_gpu() or has_plugins()):
        jax.config.update("jax_platforms", "cpu")


def has_tpu(vendors: Iterable[Path] | None = None) -> bool:
    """Whether a device of Google's is on the PCI bus; `vendors` are the files that name each device's vendor."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor") if vendors is None else vendors
    return any(file.read_text().strip() == GOOGLE for file in vendors)


def has_gpu() -> bool:
    """Whether the machine has a GPU's device file."""
    return any(device.exists() for device in GPU_DEVICES)


def has_plugins() -> bool:
    """Whether another platform's plugin for jax is installed."""
    return (
        bool(importlib.metadata.entry_points(group="jax_plugins"))
        or importlib.util.find_spec("jax_plugins") is not None
    )
