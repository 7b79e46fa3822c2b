"""Linear maps laid out for a few rows on a CPU, as in a decode step, which reads every weight once.

The kernel lies in panels of columns and panels.c multiplies it at about the speed of the reads, where XLA's CPU backend
reaches about 0.6 of that at 8 rows. The C file is compiled when it is first needed; without a C compiler, and
wherever it would not help, maps stay as they are. The plain product of the same panels is its reference.
Legend: R rows, D in, O out, S columns of a panel, C = O / S panels.
"""

import ctypes
import functools
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lam_jax.nn.axes import is_sharded
from lam_jax.nn.layers import Linear, last

T = TypeVar("T")
COLUMNS = 32  # S; PANEL in panels.c
LEAST = 2**17  # weights; smaller kernels stay in a core's cache, where XLA's product is as fast
_TARGET = "lam_jax.panel_product"


class PanelLinear(struct.PyTreeNode):
    """`Linear` with its kernel in panels [C, D, S]."""

    panels: Any
    bias: Any = None

    @classmethod
    def create(cls, linear: Linear) -> "PanelLinear":
        """The same map."""
        return cls(panels(linear.kernel), linear.bias)

    @property
    def inputs(self) -> int:
        """D."""
        return self.panels.shape[1]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        y = panel_product(x, self.panels)
        return y if self.bias is None else y + last(self.bias, y)


def panels(kernel: Float[Array, "D O"]) -> Float[Array, "C D S"]:
    """A kernel cut into panels of columns."""
    return jnp.moveaxis(kernel.reshape(kernel.shape[0], -1, COLUMNS), 1, 0)


def panel_product(x: Float[Array, "... D"], panels: Float[Array, "C D S"]) -> Float[Array, "... O"]:
    """`x @ kernel` for a kernel in panels, in float32; same dtype as `x` out."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    y = jax.lax.platform_dependent(rows, panels, cpu=_by_kernel, default=by_xla)
    return y.astype(x.dtype).reshape(*x.shape[:-1], -1)


def by_xla(x: Float[Array, "R D"], panels: Float[Array, "C D S"]) -> Float[Array, "R O"]:
    """The product as XLA computes it: the reference of the C kernel."""
    return jnp.einsum("rd,cds->rcs", x, panels).reshape(x.shape[0], -1)


def _by_kernel(x: Float[Array, "R D"], panels: Float[Array, "C D S"]) -> Float[Array, "R O"]:
    out = jax.ShapeDtypeStruct((x.shape[0], panels.shape[0] * COLUMNS), jnp.float32)
    return jax.ffi.ffi_call(_TARGET, out)(x, panels)


def is_worth_panels(kernel: Float[Array, "D O"]) -> bool:
    """Whether panels pay for it: float32, not small, one CPU device, the C kernel at hand."""
    fits = kernel.size >= LEAST and kernel.shape[-1] % COLUMNS == 0 and kernel.dtype == jnp.float32
    return fits and jax.default_backend() == "cpu" and not is_sharded() and has_kernel()


def in_panels(module: T) -> T:
    """A module with all its linear maps in panels where that pays."""

    def convert(part: Any) -> Any:
        worth = isinstance(part, Linear) and is_worth_panels(part.kernel)
        return PanelLinear.create(part) if worth else part

    return jax.tree.map(convert, module, is_leaf=lambda part: isinstance(part, Linear))


@functools.cache
def has_kernel() -> bool:
    """Compiles and registers panels.c, once in a process; whether that worked. Failing is no error, only slower."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        _log_absence("no C compiler was found (`cc`, or what CC names)")
        return False
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "panels.so")
        # A second's work; kept files would have to be told apart by processor, compiler and jaxlib.
        command = [compiler, "-O3", "-march=native", "-std=c11", "-shared", "-fPIC", "-I", jax.ffi.include_dir()]
        done = subprocess.run(
            [*command, "-o", str(library), str(Path(__file__).with_suffix(".c"))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            _log_absence(f"{compiler} failed: {done.stderr.strip()}")
            return False
        try:
            handler = ctypes.CDLL(str(library)).panel_product
        except OSError as error:  # for example a temporary folder that nothing may be run from
            _log_absence(f"what {compiler} made cannot be loaded: {error}")
            return False
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(handler), platform="cpu")
    return True


def _log_absence(reason: str) -> None:
    logging.getLogger(__name__).warning(
        "Decoding on this CPU uses XLA's products, which are slower than lam_jax's own: %s. Install gcc or clang.",
        reason,
    )
