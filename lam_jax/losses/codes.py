"""Losses over code logits (method.md section 3). Legend: B rows, L length, K codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lam_jax.losses.mean import Mean, masked_mean
from lam_jax.nn.vocabulary import expectation


def negative_entropy(logits: Float[Array, "B L K"], valid: Bool[Array, "B L"]) -> Mean:
    """R: mean of `sum_k p_k log p_k` over valid positions; lowering it raises the per-position entropy."""
    logps = jax.nn.log_softmax(logits, axis=-1)
    return masked_mean(expectation(logps, logps), valid)


def cloning(logits: Float[Array, "B L K"], actions: Int[Array, "B L"], valid: Bool[Array, "B L"]) -> tuple[Mean, Mean]:
    """Cross-entropy of the policy against the inverse model's actions, and the accuracy, over valid positions."""
    logps = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logps, actions[..., None], axis=-1)[..., 0]
    right = (jnp.argmax(logits, axis=-1) == actions).astype(jnp.float32)
    return masked_mean(-chosen, valid), masked_mean(right, valid)
