"""Gaussian negative log-likelihood of the projectors (method.md section 3). Legend: B rows, L length, D width."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lam_jax.losses.mean import Mean, masked_mean


def gaussian_nll(
    mean: Float[Array, "B L D"],
    log_variance: Float[Array, "B L D"],
    target: Float[Array, "B L D"],
    valid: Bool[Array, "B L"],
) -> Mean:
    """`(mean - target)^2 exp(-log_variance) + log_variance`, summed over D, averaged over valid positions.

    No factor 1/2 and no constant, as released. The target is a constant.
    """
    mean, log_variance = mean.astype(jnp.float32), log_variance.astype(jnp.float32)
    error = mean - jax.lax.stop_gradient(target).astype(jnp.float32)
    return masked_mean(jnp.sum(jnp.square(error) * jnp.exp(-log_variance) + log_variance, axis=-1), valid)
