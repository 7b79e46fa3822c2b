"""The released tower's patch embedding, summed in the order in which the reference summed it.

torch's Conv3d on a CPU adds the 1176 products of a patch one by one, in the order (frame, row, column, channel), which
loses more digits than anything else in the model: 3.8e-6 on values around 1, ten times what blocked matrix products
lose. That alone carries some elements of deeper arrays past `1e-5 + 1e-4 |b|` even for exact arithmetic. So the
comparison sums in the same order; what is summed is the library's own weight and patches.
n: patches, D: vision width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from lam_jax.nn.layers import Linear
from lam_jax.qwen.config import VisionConfig
from lam_jax.rollout.agent import Agent


@jax.custom_vjp
def _sum_in_order(x: Float[Array, "n k"], kernel: Float[Array, "k D"]) -> Float[Array, "n D"]:
    def add(total, term):
        column, row = term
        return total + column[:, None] * row[None, :], None

    return jax.lax.scan(add, jnp.zeros((x.shape[0], kernel.shape[1]), x.dtype), (x.T, kernel))[0]


def _forward(x, kernel):
    return _sum_in_order(x, kernel), (x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    return gradient @ kernel.T, x.T @ gradient


_sum_in_order.defvjp(_forward, _backward)


class PatchEmbedding(struct.PyTreeNode):
    """Stands for the tower's `patch_embed`, with its kernel."""

    kernel: Array
    bias: None
    config: VisionConfig = struct.field(pytree_node=False)

    def __call__(self, x: Float[Array, "B P k"]) -> Float[Array, "B P D"]:
        c = self.config
        order = np.arange(c.patch_size).reshape(c.channels, c.temporal, c.patch, c.patch).transpose(1, 2, 3, 0).ravel()
        y = _sum_in_order(x.reshape(-1, x.shape[-1])[:, order], self.kernel[order])
        return y.reshape(*x.shape[:-1], -1)


def in_reference_order(agent: Agent) -> Agent:
    """The agent with the reference's order of summation in its patch embedding."""
    vision = agent.backbone.vision
    linear: Linear = vision.patch_embed
    ordered = PatchEmbedding(linear.kernel, linear.bias, vision.config)
    return agent.replace(backbone=agent.backbone.replace(vision=vision.replace(patch_embed=ordered)))
