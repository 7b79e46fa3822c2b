"""The patch embedding's sum in the order in which the reference took it.

torch's Conv3d on a CPU adds the 1176 products of a patch one by one, over frame, row, column and channel in this order.
That loses more digits than anything else in the model (3.8e-6 on values around 1, three times what a blocked matrix
product loses) and would alone carry elements of deeper arrays past their tolerance, whoever computes them. So the
golden runs sum in this order, which makes the embedding equal to the last bit; weight and patches are the library's.

n: patches, I: numbers in a patch, D: vision width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from lam_jax.latent.agent import Agent
from lam_jax.models.qwen2_5_vl.config import VisionConfig
from lam_jax.nn.layers import Linear


@jax.custom_vjp
def in_order(x: Float[Array, "n I"], kernel: Float[Array, "I D"]) -> Float[Array, "n D"]:
    """`x @ kernel`, its products added one by one."""

    def add(total, term):
        column, row = term
        return total + column[:, None] * row[None, :], None

    return jax.lax.scan(add, jnp.zeros((x.shape[0], kernel.shape[1]), x.dtype), (x.T, kernel))[0]


def _forward(x, kernel):
    return in_order(x, kernel), (x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    return gradient @ kernel.T, x.T @ gradient


in_order.defvjp(_forward, _backward)


class PatchEmbedding(Linear):
    """The tower's `patch_embed` with its kernel, summed in order."""

    config: VisionConfig | None = struct.field(pytree_node=False, default=None)

    def __call__(self, x: Float[Array, "B P I"]) -> Float[Array, "B P D"]:
        c = self.config
        order = np.arange(c.patch_size).reshape(c.channels, c.temporal, c.patch, c.patch).transpose(1, 2, 3, 0).ravel()
        y = in_order(x.reshape(-1, x.shape[-1])[:, order], self.kernel[order])
        return y.reshape(*x.shape[:-1], -1)


def in_patch_order(agent: Agent) -> Agent:
    """The agent with the reference's order of summation in its patch embedding."""
    tower = agent.backbone.vision
    ordered = PatchEmbedding(tower.patch_embed.kernel, tower.patch_embed.bias, tower.config)
    return agent.replace(backbone=agent.backbone.replace(vision=tower.replace(patch_embed=ordered)))
