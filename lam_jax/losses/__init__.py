"""Losses of stages 1 to 5: arrays in, a mean (total and count) out. The forward pass is the caller's."""

from lam_jax.losses.codes import cloning, negative_entropy
from lam_jax.losses.gaussian import gaussian_nll
from lam_jax.losses.mean import Mean, masked_mean
from lam_jax.losses.next_token import next_token, target_mask, token_logps

__all__ = [
    "Mean",
    "cloning",
    "gaussian_nll",
    "masked_mean",
    "negative_entropy",
    "next_token",
    "target_mask",
    "token_logps",
]
