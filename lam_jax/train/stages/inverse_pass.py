"""What stages 1, 3 and 4 share: frozen states, and the inverse model's account of them.

Legend: B rows, L length, D width, K codes.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lam_jax.latent.agent import Agent, Reading
from lam_jax.latent.code_model import inverse_shift, straight_through
from lam_jax.latent.health import health
from lam_jax.losses import Mean, negative_entropy, next_token, target_mask
from lam_jax.models.inputs import Batch
from lam_jax.nn.stack import Remat
from lam_jax.train.method import Method


class InversePass(struct.PyTreeNode):
    """The inverse model's codes for a batch and what the world model makes of them."""

    logits: Float[Array, "B L K"]  # aligned with actions, noise-free
    action: Int[Array, "B L"]  # the code used: argmax with noise
    out: Float[Array, "B L D"]  # input of lm_head


def frozen_states(agent: Agent, batch: Batch) -> Float[Array, "B L D"]:
    """`stop_grad(e)`: the backbone stores no activations."""
    return jax.lax.stop_gradient(jax.lax.stop_gradient(agent.backbone).states(batch, frozen=True))


def inverse_logits(agent: Agent, x: Float[Array, "B L D"], batch: Batch, remat: Remat = False) -> Float[Array, "B L K"]:
    """Code logits of inverse dynamics, aligned with actions."""
    if agent.latent.config.inverse_reads == "tokens":
        x = x + _sized_as(jax.lax.stop_gradient(agent.backbone.embed(batch.tokens)), jax.lax.stop_gradient(x))
    return inverse_shift(agent.latent.inverse(x, agent.backbone.rotary(batch.positions), batch.mask, remat))


def _sized_as(x: Float[Array, "B L D"], like: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """`x` with the root mean square of `like` at each position."""

    def mean_square(values: Array) -> Array:
        return jnp.mean(jnp.square(values.astype(jnp.float32)), axis=-1, keepdims=True)

    return x * jnp.sqrt(mean_square(like) / (mean_square(x) + 1e-12)).astype(x.dtype)


def inverse_pass(
    agent: Agent,
    x: Float[Array, "B L D"],
    batch: Batch,
    noise: Float[Array, "B L K"] | None,
    reading: Reading,
    remat: Remat = False,
) -> InversePass:
    """Runs merge input `x` through inverse dynamics, straight-through choice, world model and readout."""
    logits = inverse_logits(agent, x, batch, remat)
    choice = straight_through(logits, noise, agent.latent.config.tau)
    out = agent.read(x, agent.latent.code(choice), reading)
    return InversePass(logits, jnp.argmax(choice, axis=-1), out)


def gumbel(batch: Batch, key: Array, codes: int) -> Float[Array, "B L K"]:
    """Noise of the straight-through choice."""
    return jax.random.gumbel(key, (*batch.tokens.shape, codes), jnp.float32)


def prediction_losses(agent: Agent, inferred: InversePass, batch: Batch, method: Method) -> tuple[Mean, Mean]:
    """Next-token cross-entropy and R."""
    keep = target_mask(batch.valid, batch.mask, after_padding=method.after_padding)
    ce = next_token(inferred.out, agent.table, batch.tokens, keep)
    return ce, negative_entropy(inferred.logits, batch.valid)


def code_metrics(inferred: InversePass, batch: Batch, prefix: str = "") -> dict[str, Array]:
    """Codebook health of this batch as scalars."""
    return health(jax.lax.stop_gradient(inferred.logits), batch.valid).scalars(prefix)
