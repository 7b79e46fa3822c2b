"""Maps whose kernels lie in panels of columns, each one piece of memory: what a program of `row_products` reads.

A block of columns of a kernel [D, O] is D pieces of memory far apart; of a panel it is one.
Legend: R rows, D in, O out, W columns of a panel, C = O / W panels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lam_jax.gpu.row_linear import LEAST, gated, on_gpu, row_linear
from lam_jax.gpu.row_linear import gated_by_xla as plain_gated
from lam_jax.gpu.row_linear import linear_by_xla as plain_linear
from lam_jax.nn.layers import GatedMLP, Head, Linear, Map
from lam_jax.nn.weight import Param

Panels = Float[Array, "C D W"]


def in_panels(kernel: Float[Array, "D O"], columns: int) -> Panels:
    """A kernel cut into panels of W=columns."""
    return jnp.moveaxis(kernel.reshape(kernel.shape[0], -1, columns), 1, 0)


def whole(panels: Panels) -> Float[Array, "D O"]:
    """The kernel again."""
    return jnp.moveaxis(panels, 0, 1).reshape(panels.shape[1], -1)


def linear_by_xla(x: Float[Array, "R D"], panels: Panels, bias: Float[Array, " O"] | None = None) -> Array:
    """`row_linear` as XLA computes it."""
    return plain_linear(x, whole(panels), bias)


def gated_by_xla(x: Float[Array, "R D"], gate: Panels, up: Panels) -> Array:
    """`gated` as XLA computes it."""
    return plain_gated(x, whole(gate), whole(up))


class PanelLinear(struct.PyTreeNode):
    """`Linear` by `row_linear`."""

    panels: Param  # [C, D, W]
    bias: Param = None
    interpret: bool = struct.field(pytree_node=False, default=False)

    @property
    def inputs(self) -> int:
        """D."""
        return self.panels.shape[1]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        return on_gpu(row_linear, linear_by_xla, x, self.panels, self.bias, interpret=self.interpret)


class PanelGatedMLP(struct.PyTreeNode):
    """`GatedMLP` whose first two maps are one kernel."""

    gate: Param  # [C, D, W]
    up: Param  # [C, D, W]
    down: Map
    interpret: bool = struct.field(pytree_node=False, default=False)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """The MLP of the last dimension; same width out."""
        return self.down(self.hidden(x))

    def hidden(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """What `down` is applied to."""
        return on_gpu(gated, gated_by_xla, x, self.gate, self.up, interpret=self.interpret)


@dataclasses.dataclass(frozen=True)
class Pack:
    """A value for `Layout.pack`: maps in panels, or None of those for which that does not pay.

    Attributes:
        columns: W.
        gated: W of an MLP's first two maps.
        least: of weights in a map; smaller ones stay.
        interpret: the kernels are interpreted, so that they run on any device, slowly.
    """

    columns: int = 64
    gated: int = 64
    least: int = LEAST
    interpret: bool = False

    def __call__(self, module: Linear | GatedMLP | Head) -> Any:
        """The same map from the same numbers."""
        if isinstance(module, Head):
            return None
        if isinstance(module, Linear):
            kernel = module.kernel
            if not self._pays(kernel, self.columns):
                return None
            return PanelLinear(in_panels(kernel, self.columns), module.bias, self.interpret)
        gate, up = module.gate, module.up
        if gate.bias is not None or up.bias is not None or not self._pays(gate.kernel, self.gated):
            return None
        gates, ups = (in_panels(part.kernel, self.gated) for part in (gate, up))
        return PanelGatedMLP(gates, ups, self(module.down) or module.down, self.interpret)

    def _pays(self, kernel: jax.Array, columns: int) -> bool:
        return kernel.ndim == 2 and kernel.size >= self.least and kernel.shape[1] % columns == 0
