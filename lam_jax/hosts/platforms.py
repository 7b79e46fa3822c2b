"""Keeps jax from starting what is installed for compiling only, on a machine that has neither a TPU nor a GPU.

libtpu and jax's plugin for CUDA are installed there for `lam-jax compile` (the extras `aot` and `aot-gpu`). jax tries
every platform that is installed, and without a device these only write complaints to stderr.
"""

import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path

import jax

GOOGLE = "0x1ae0"  # vendor of TPUs on the PCI bus
CUDA = "xla_cuda"  # how the names of jax's plugins for CUDA begin
GPU_DEVICES = tuple(map(Path, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")))


def leave_absent_devices_out() -> None:
    """Settles for the CPU where a compiler is installed and nothing else than a CPU can be found.

    Does nothing where platforms were chosen, or where an accelerator may be there: what jax says of one then, such as
    that its support is not installed, is news.
    """
    if jax.config.jax_platforms or not has_compilers():  # pyright: ignore[reportAttributeAccessIssue]
        return
    if runs_on_cpu():
        jax.config.update("jax_platforms", "cpu")


def runs_on_cpu() -> bool:
    """Whether the CPU was chosen, or nothing was and nothing else can be found."""
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    return platforms == "cpu" if platforms else not (has_tpu() or has_gpu() or has_plugins())


def has_compilers() -> bool:
    """Whether libtpu or jax's plugin for CUDA is installed."""
    return importlib.util.find_spec("libtpu") is not None or any(name.startswith(CUDA) for name in _plugins())


def has_tpu(vendors: Iterable[Path] | None = None) -> bool:
    """Whether a device of Google's is on the PCI bus; `vendors` are the files that name each device's vendor."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor") if vendors is None else vendors
    return any(file.read_text().strip() == GOOGLE for file in vendors)


def has_gpu() -> bool:
    """Whether the machine has a GPU's device file."""
    return any(device.exists() for device in GPU_DEVICES)


def has_plugins() -> bool:
    """Whether a plugin for jax of another platform than CUDA is installed."""
    return any(not name.startswith(CUDA) for name in _plugins())


def _plugins() -> set[str]:
    """Names of the plugins for jax: of entry points, and of modules in the package where jax looks as well."""
    package = importlib.util.find_spec("jax_plugins")
    folders = package.submodule_search_locations if package is not None else None
    found = {module.name for module in pkgutil.iter_modules(folders or [])}
    return found | {point.name for point in importlib.metadata.entry_points(group="jax_plugins")}
