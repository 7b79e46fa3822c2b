"""The cross-modal projector P (text -> image-text) and its inverse P' (method.md section 2).

Legend: B any leading dimensions, D width.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lam_jax.nn.layers import Linear


class Bottleneck(struct.PyTreeNode):
    """Linear D -> D/2, tanh, Linear D/2 -> D, with biases."""

    down: Linear
    up: Linear

    @classmethod
    def spec(cls, width: int) -> "Bottleneck":
        """Specs for D=width."""
        return cls(
            down=Linear.spec(width, width // 2, ("embed", "mlp"), bias=True),
            up=Linear.spec(width // 2, width, ("mlp", "embed"), bias=True),
        )

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The map of [*B, D]; same width out."""
        return self.up(jnp.tanh(self.down(x)))


class Projector(struct.PyTreeNode):
    """Mean and log-variance of a diagonal Gaussian over the other modality's states."""

    mean: Bottleneck
    log_variance_net: Bottleneck

    @classmethod
    def spec(cls, width: int) -> "Projector":
        """Specs for D=width."""
        return cls(mean=Bottleneck.spec(width), log_variance_net=Bottleneck.spec(width))

    def log_variance(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Bounded to (-1, 1) by a final tanh."""
        return jnp.tanh(self.log_variance_net(x))
