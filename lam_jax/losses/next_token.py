"""Next-token cross-entropy and token log-probabilities over a big vocabulary, never materialised over a sequence.

Legend: B rows (any leading dimensions), L length, D width, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lam_jax.losses.mean import Mean, masked_mean
from lam_jax.nn.axes import constrain, is_sharded, local_shape
from lam_jax.nn.vocabulary import pick

CHUNK_BYTES = 64 * 2**20  # float32 logits held at a time


def target_mask(
    valid: Bool[Array, "B L"],
    mask: Bool[Array, "B L"],
    response: Bool[Array, "B L"] | None = None,
    after_padding: bool = False,
) -> Bool[Array, "B L"]:
    """Positions t whose target t+1 counts: valid(t+1), and t is no padding (METHOD section 3).

    Args:
        valid: METHOD's valid(t).
        mask: real tokens.
        response: if given, only targets inside it count.
        after_padding: **official:** the first token of a left-padded row counts too.
    """
    keep = valid[:, 1:]
    if not after_padding:
        keep = keep & mask[:, :-1]
    if response is not None:
        keep = keep & response[:, 1:]
    return jnp.pad(keep, ((0, 0), (0, 1)))


def token_logps(
    states: Float[Array, "*B L D"],
    table: Float[Array, "V D"],
    targets: Int[Array, "*B L"],
    temperature: float = 1.0,
    want_entropy: bool = False,
) -> tuple[Float[Array, "*B L"], Float[Array, "*B L"]]:
    """Log-probability of `targets` under `softmax(states @ table.T / temperature)`, and the entropy (0 if not wanted).

    Runs in chunks of positions under remat: memory is one chunk of logits, forward and backward.
    """
    shape, length, width = targets.shape, targets.shape[-1], states.shape[-1]
    # Leading dimensions on different mesh axes cannot be joined in place.
    lead = shape[:-1] if is_sharded() else (targets.size // length,)
    axes = ("batch",) if len(lead) == 1 else ("prompts", "samples")
    *rows, vocab = local_shape((*lead, table.shape[0]), *axes, "vocab")
    chunk = max(1, min(length, CHUNK_BYTES // (4 * vocab * max(math.prod(rows), 1))))
    chunks = -(-length // chunk)
    padding = chunks * chunk - length
    unpadded = ((0, 0),) * len(lead)
    x = jnp.pad(states.reshape(*lead, length, width), (*unpadded, (0, padding), (0, 0)))
    y = jnp.pad(targets.reshape(*lead, length), (*unpadded, (0, padding)))
    x = jnp.moveaxis(x.reshape(*lead, chunks, chunk, width), -3, 0)
    y = jnp.moveaxis(y.reshape(*lead, chunks, chunk), -2, 0)
    # FSDP gathers the table here, once, and not in every chunk.
    table = constrain(table, "vocab", None)

    @jax.checkpoint
    def step(_, inputs):
        x, y = inputs
        logits = jnp.einsum("...d,vd->...v", x, table.astype(x.dtype), preferred_element_type=jnp.float32) / temperature
        logits = constrain(logits, *axes, "length", "vocab")
        total = jax.nn.logsumexp(logits, axis=-1)
        logps = pick(logits, y) - total
        if not want_entropy:
            return None, (logps, jnp.zeros_like(logps))
        mean_logit = jnp.sum(jnp.exp(logits - total[..., None]) * logits, axis=-1)
        return None, (logps, jax.lax.stop_gradient(total - mean_logit))

    _, parts = jax.lax.scan(step, None, (x, y))
    logps, entropy = (jnp.moveaxis(p, 0, -2).reshape(*lead, chunks * chunk)[..., :length].reshape(shape) for p in parts)
    return logps, entropy


def next_token(
    states: Float[Array, "B L D"], table: Float[Array, "V D"], tokens: Int[Array, "B L"], keep: Bool[Array, "B L"]
) -> Mean:
    """Cross-entropy of token t+1 from the `lm_head` input at t, over positions `keep` (see `target_mask`)."""
    targets = jnp.concatenate([tokens[:, 1:], tokens[:, -1:]], axis=1)
    logps, _ = token_logps(states, table, targets)
    return masked_mean(-logps, keep)
