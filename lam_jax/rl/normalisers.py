"""What the token losses are divided by (method.md section 4), so that a batch may be cut in any way.

The loss of a micro-batch is `numerator(micro-batch) / denominator(whole global batch)`; micro-batch losses and
gradients are then *summed*. Numerator and denominator are:

| normaliser     | numerator                                              | denominator                     |
|----------------|--------------------------------------------------------|---------------------------------|
| sequence_mean  | sum over sequences of (sum_t m s / sum_t m)            | sequences of the global batch   |
| max_length     | sum m s                                                | sequences * completion length   |
| global_tokens  | sum m s                                                | active tokens, global batch     |
| local_tokens   | sum over local batches of (sum m s / active tokens)    | local batches, global batch     |

The first three do not depend on how many devices or accumulation steps the batch is spread over. `local_tokens`
(BNPO) does by definition: a token's weight is one over the active tokens of *its* local batch. Fix `local_batches`
(rows are cut into that many equal runs) to keep it constant while devices change.

A sequence whose reward call failed has an all-zero mask: it adds nothing to a numerator but is one of the batch's
sequences, as in the released code. Rows that only pad the batch are not sequences.

B sequences, T completion positions.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from lam_jax.rl.algorithm import Normaliser


class BatchCounts(flax.struct.PyTreeNode):
    """Sizes of a whole global batch: scalars, summed over all devices, processes and accumulation steps."""

    sequences: Float32[Array, ""]  # completions, without rows that only pad the batch
    tokens: Float32[Array, ""]  # active completion tokens
    local_batches: Float32[Array, ""]  # BNPO's units


def count_batch(mask: Bool[Array, "B T"], real: Bool[Array, "B"] | None = None, local_batches: int = 1) -> BatchCounts:
    """Count a batch; add up (`jax.tree.map(jnp.add, ...)`) the counts of all micro-batches to get the global ones.

    Args:
        mask: active completion tokens.
        real: False for rows that only pad the batch; all rows are real by default.
        local_batches: local batches that these rows are cut into.
    """
    sequences = mask.shape[0] if real is None else real.sum()
    return BatchCounts(
        sequences=jnp.asarray(sequences, jnp.float32),
        tokens=mask.sum().astype(jnp.float32),
        local_batches=jnp.asarray(local_batches, jnp.float32),
    )


def loss_denominator(normaliser: Normaliser, counts: BatchCounts, max_length: int) -> Float32[Array, ""]:
    """Denominator of the table above; at least 1, so that an empty batch has a loss of 0.

    Args:
        normaliser: see `Algorithm.normaliser`.
        counts: those of the whole global batch.
        max_length: the *configured* completion length, never the padded width.
    """
    value = {
        "sequence_mean": counts.sequences,
        "max_length": counts.sequences * jnp.float32(max_length),
        "global_tokens": counts.tokens,
        "local_tokens": counts.local_batches,
    }[normaliser]
    return jnp.maximum(value, 1.0)


def loss_numerator(
    normaliser: Normaliser, token_loss: Float[Array, "B T"], mask: Bool[Array, "B T"], local_batches: int = 1
) -> Float[Array, ""]:
    """Numerator of the table above for the rows at hand.

    Raises:
        ValueError: `local_batches` does not divide B.
    """
    active = mask.astype(token_loss.dtype)
    masked = jnp.where(mask, token_loss, 0.0)
    if normaliser == "sequence_mean":
        return (masked.sum(axis=1) / jnp.maximum(active.sum(axis=1), 1.0)).sum()
    if normaliser == "local_tokens":
        if mask.shape[0] % local_batches:
            raise ValueError(
                f"{mask.shape[0]} sequences cannot be cut into {local_batches} equal local batches; choose a divisor"
            )
        sums = jax.tree.map(lambda x: x.reshape(local_batches, -1).sum(axis=1), (masked, active))
        return (sums[0] / jnp.maximum(sums[1], 1.0)).sum()
    return masked.sum()
