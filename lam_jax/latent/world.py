"""The world model: merges a state with an action's code and reads the next token out.

Legend: B any leading dimensions, D width, F feed-forward.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lam_jax.models.config import TextSizes
from lam_jax.nn.layers import Linear, Map, packed, swiglu
from lam_jax.nn.stack import split_layers
from lam_jax.nn.weight import Param, stack

Readout = Literal["merged", "delta", "block"]


class MergeBlock(struct.PyTreeNode):
    """`W_o(silu(W_1 [x; c]) * W_2 [x; c])`, without the residual."""

    gate: Linear
    up: Linear
    down: Linear

    @classmethod
    def spec(cls, width: int, hidden: int) -> "MergeBlock":
        """Specs for D=width, F=hidden."""
        return cls(
            gate=Linear.spec(2 * width, hidden, ("embed", "mlp")),
            up=Linear.spec(2 * width, hidden, ("embed", "mlp")),
            down=Linear.spec(hidden, width, ("mlp", "embed")),
        )

    def __call__(self, x: Float[Array, "*B D"], code: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The block's own output for states `x` and codebook rows `code`."""
        # [x; c] W = x W_upper + c W_lower: the concatenation is never built.
        return self.down(swiglu(_split(self.gate, x, code), _split(self.up, x, code)))


def _split(layer: Linear, x: Array, code: Array) -> Array:
    upper, lower = layer.kernel[: x.shape[-1]], layer.kernel[x.shape[-1] :]
    return x @ upper.astype(x.dtype) + code @ lower.astype(x.dtype)


class WorldModel(struct.PyTreeNode):
    """`x <- x + MergeBlock(x, c)`, twice by default (method.md section 2)."""

    blocks: MergeBlock

    @classmethod
    def spec(cls, text: TextSizes, layers: int) -> "WorldModel":
        """Specs of `layers` merge blocks of the backbone's width and feed-forward size."""
        return cls(blocks=stack(MergeBlock.spec(text.width, text.hidden), layers))

    def __call__(
        self, x: Float[Array, "*B D"], code: Float[Array, "*B D"]
    ) -> tuple[Float[Array, "*B D"], Float[Array, "*B D"]]:
        """The merged state and the last block's own output (its residual left out)."""
        code = code.astype(x.dtype)
        outputs = x
        layers = self.blocks.down.kernel.shape[0]
        for i in range(layers):  # two layers: unrolled, a scan would save nothing
            outputs = jax.tree.map(lambda w, i=i: w[i], self.blocks)(x, code)
            x = x + outputs
        return x, outputs

    def tabulated(self, codebook: Float[Array, "K D"]) -> "TabulatedWorld":
        """The same map for codes of a fixed codebook."""
        blocks = []
        for block in split_layers(self.blocks):
            (gate, gate_code), (up, up_code) = (_halves(layer, codebook) for layer in (block.gate, block.up))
            blocks.append(packed(TabulatedBlock(gate, up, block.down, gate_code, up_code)))
        return TabulatedWorld(tuple(blocks))


def _halves(layer: Linear, codebook: Array) -> tuple[Linear, Array]:
    """The map of the state, and what every code adds to it [K, F]."""
    width = codebook.shape[-1]
    return Linear(layer.kernel[:width]), codebook @ layer.kernel[width:].astype(codebook.dtype)


class TabulatedBlock(struct.PyTreeNode):
    """`MergeBlock` whose half for the code is looked up."""

    gate: Map
    up: Map
    down: Map
    gate_code: Param  # [K, F]
    up_code: Param

    def __call__(self, x: Float[Array, "*B D"], action: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """The block's own output."""
        gate = self.gate(x) + jnp.take(self.gate_code, action, axis=0).astype(x.dtype)
        up = self.up(x) + jnp.take(self.up_code, action, axis=0).astype(x.dtype)
        return self.down(swiglu(gate, up))


class TabulatedWorld(struct.PyTreeNode):
    """The world model while the codebook stands still, as in rollouts: [x; c] W = x W_upper + (c W_lower), looked up.

    A step then reads 3 D F weights a block instead of 5 D F.
    """

    blocks: tuple[TabulatedBlock, ...]

    def __call__(
        self, x: Float[Array, "*B D"], action: Int[Array, "*B"]
    ) -> tuple[Float[Array, "*B D"], Float[Array, "*B D"]]:
        """As `WorldModel`, for code numbers."""
        outputs = x
        for block in self.blocks:
            outputs = block(x, action)
            x = x + outputs
        return x, outputs


def readout(
    kind: Readout, start: Array, merged: Array, block: Array, norm: Callable[[Array], Array]
) -> Float[Array, "*B D"]:
    """The input of `lm_head`: `norm(x_2)`, `norm(x_2) - stop_grad(x_0)` or `norm(b)` (method.md section 2).

    Raises:
        ValueError: unknown kind.
    """
    if kind == "merged":
        return norm(merged)
    if kind == "delta":
        return norm(merged) - jax.lax.stop_gradient(start)
    if kind == "block":
        return norm(block)
    raise ValueError(f"Unknown readout {kind!r}: expected one of {get_args(Readout)}.")
