"""Linear maps laid out for a few rows on a CPU, as in a decode step, which reads every weight once.

The kernel lies in panels of columns and packed_linear.c multiplies it at about the speed of the reads, where XLA's CPU
backend reaches about 0.6 of that at 8 rows. Kernels of bfloat16 and int8 (`lam_jax.nn.stored`) lie so too, and are
widened in registers. The C file is compiled when a layout is first chosen for a CPU
(`lam_jax.parallel.choose_layout`). The plain product of the same panels is its reference.
Legend: R rows, D in, O out, S columns of a panel, C = O / S panels.
"""

import ctypes
import functools
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Float32, Num

from lam_jax.nn.layers import Linear
from lam_jax.nn.stored import StoredLinear, scaled
from lam_jax.nn.weight import Param

COLUMNS = 32  # S; PANEL in packed_linear.c
LEAST = 2**17  # weights; smaller kernels stay in a core's cache, where XLA's product is as fast
_TARGET = "lam_jax.packed_product"


class PackedLinear(struct.PyTreeNode):
    """`Linear`, or a `StoredLinear`, with its kernel in panels [C, D, S]."""

    panels: Param
    bias: Param = None
    scale: Param = None  # float32 [O], of int8 panels

    @classmethod
    def create(cls, linear: Linear) -> "PackedLinear":
        """The same map."""
        scale = linear.scale if isinstance(linear, StoredLinear) else None
        return cls(in_panels(linear.kernel), linear.bias, scale)

    @property
    def inputs(self) -> int:
        """D."""
        return self.panels.shape[1]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        return self.wide(x).astype(x.dtype)

    def wide(self, x: Float[Array, "... D"]) -> Float32[Array, "... O"]:
        """The same, in float32."""
        return scaled(packed_product(x.astype(jnp.float32), self.panels), self.scale, self.bias)


def in_panels(kernel: Num[Array, "D O"]) -> Num[Array, "C D S"]:
    """A kernel cut into panels of columns."""
    return jnp.moveaxis(kernel.reshape(kernel.shape[0], -1, COLUMNS), 1, 0)


def packed_product(x: Float[Array, "... D"], panels: Num[Array, "C D S"]) -> Float[Array, "... O"]:
    """`x @ kernel` for a kernel in panels, in float32; same dtype as `x` out."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    y = jax.lax.platform_dependent(rows, panels, cpu=_by_kernel, default=by_xla)
    return y.astype(x.dtype).reshape(*x.shape[:-1], -1)


def by_xla(x: Float[Array, "R D"], panels: Num[Array, "C D S"]) -> Float[Array, "R O"]:
    """The product as XLA computes it: the reference of the C kernel."""
    return jnp.einsum("rd,cds->rcs", x, panels.astype(x.dtype)).reshape(x.shape[0], -1)


def _by_kernel(x: Float[Array, "R D"], panels: Num[Array, "C D S"]) -> Float[Array, "R O"]:
    out = jax.ShapeDtypeStruct((x.shape[0], panels.shape[0] * COLUMNS), jnp.float32)
    return jax.ffi.ffi_call(_TARGET, out)(x, panels)


def pack(linear: Linear) -> PackedLinear | None:
    """The map packed, or None where that does not pay: small, no whole panels, or not float32 and not stored so."""
    kernel = linear.kernel
    fits = kernel.size >= LEAST and kernel.shape[-1] % COLUMNS == 0
    read = kernel.dtype == jnp.float32 or isinstance(linear, StoredLinear)
    return PackedLinear.create(linear) if fits and read else None


@functools.cache
def has_kernel() -> bool:
    """Compiles and registers packed_linear.c, once in a process; whether that worked. Failing is only slower."""
    compiler = _compiler()
    if compiler is None:
        _log_absence("no C compiler was found (`cc`, or what CC names)")
        return False
    try:
        return _compile(compiler)
    except OSError as error:  # no folder for temporary files, or a compiler that cannot be run
        _log_absence(f"{shlex.join(compiler)} could not be run: {error}")
        return False


def _compiler() -> list[str] | None:
    """The C compiler and its arguments, CC split as a shell does (`ccache gcc`, `gcc -m64`); None if there is none."""
    named = os.environ.get("CC", "")
    try:
        words = shlex.split(named) or ["cc"]
    except ValueError:  # a quote that is never closed
        return None
    if "=" in words[0]:  # `CCACHE_DIR=/cache ccache gcc`
        words.insert(0, "env")
    if (program := shutil.which(words[0])) is not None:
        return [program, *words[1:]]
    whole = shutil.which(named)  # a path with spaces in it
    return None if whole is None else [whole]


def _compile(compiler: Sequence[str]) -> bool:
    name = shlex.join(compiler)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "packed_linear.so")
        # A second's work; kept files would have to be told apart by processor, compiler and jaxlib.
        command = [*compiler, "-O3", "-march=native", "-std=c11", "-shared", "-fPIC", "-I", jax.ffi.include_dir()]
        done = subprocess.run(
            [*command, "-o", str(library), str(Path(__file__).with_suffix(".c"))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            _log_absence(f"{name} failed: {done.stderr.strip()}")
            return False
        try:
            handler = ctypes.CDLL(str(library)).packed_product
        except OSError as error:  # for example a temporary folder that nothing may be run from
            _log_absence(f"what {name} made cannot be loaded: {error}")
            return False
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(handler), platform="cpu")
    return True


def _log_absence(reason: str) -> None:
    logging.getLogger(__name__).warning(
        "Decoding on this CPU uses XLA's products, which are slower than lam_jax's own: %s. Install gcc or clang.",
        reason,
    )
