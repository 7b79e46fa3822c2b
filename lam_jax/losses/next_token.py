"""Next-token cross-entropy and token log-probabilities over a big vocabulary, never materialised over a sequence.

Legend: B rows (any leading dimensions), L length, D width, V vocabulary.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lam_jax.losses.mean import Mean, masked_mean
from lam_jax.nn.axes import active, leading
from lam_jax.nn.layout import layout
from lam_jax.nn.vocabulary import Names, expectation, log_sum_exp, own_pick, whole_width


def target_mask(
    valid: Bool[Array, "B L"],
    mask: Bool[Array, "B L"],
    response: Bool[Array, "B L"] | None = None,
    after_padding: bool = False,
) -> Bool[Array, "B L"]:
    """Positions t whose target t+1 counts: valid(t+1), and t is no padding (method.md section 3).

    Args:
        valid: valid(t) of method.md section 3.
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
    first: Int[Array, "*B V"] | None = None,
    penalty: float = 1.0,
) -> tuple[Float[Array, "*B L"], Float[Array, "*B L"]]:
    """Log-probability of `targets` under `softmax(states @ table.T / temperature)`, and the entropy (0 if not wanted).

    With `first`, the position from which each token counts as having occurred, those logits are penalised first
    (CTRL: positive ones divided by `penalty`, others multiplied).
    Runs in chunks of positions under remat: memory is one chunk of logits, forward and backward. On a mesh every shard
    of the vocabulary does so for itself: FSDP gathers the table once, and its gradient is summed up once.
    """
    placement = active()
    numbers = jnp.arange(table.shape[0], dtype=targets.dtype)
    penalised = () if first is None else (first,)
    if placement is None:
        return _in_chunks(states, table, numbers, targets, (), temperature, want_entropy, penalty, *penalised)

    def own(states: Array, table: Array, numbers: Array, targets: Array, *first: Array) -> tuple[Array, Array]:
        across = placement.names("vocab")
        table = whole_width(table, rows)
        return _in_chunks(states, table, numbers, targets, across, temperature, want_entropy, penalty, *first)

    lead = leading(targets.ndim - 1)
    rows = (*lead, None)
    inputs = ((*rows, None), ("vocab", "embed"), ("vocab",), rows, *([(*lead, "vocab")] if penalised else []))
    return placement.on_shards(own, (states, table, numbers, targets, *penalised), inputs, (rows, rows))


def _logits(x: Float[Array, "R C D"], table: Float[Array, "V D"]) -> Float[Array, "R C V"]:
    """float32 logits of a chunk."""
    return jnp.einsum("rcd,vd->rcv", x, table.astype(x.dtype), preferred_element_type=jnp.float32)


# Its gradients are products in the dtype of x, summed up in float32. Left to itself autodiff multiplies in float32,
# which takes an H100 twice as long (5 % of a token update at 3B).
_rounded_logits = jax.custom_vjp(_logits)


def _logits_forward(x: Array, table: Array) -> tuple[Array, tuple[Array, Array]]:
    return _logits(x, table), (x, table)


def _logits_backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, table = kept
    slope = slope.astype(x.dtype)
    to_x = jnp.einsum("rcv,vd->rcd", slope, table.astype(x.dtype), preferred_element_type=jnp.float32)
    to_table = jnp.einsum("rcv,rcd->vd", slope, x, preferred_element_type=jnp.float32)
    return to_x.astype(x.dtype), to_table.astype(table.dtype)


_rounded_logits.defvjp(_logits_forward, _logits_backward)


def _in_chunks(
    states: Array,
    table: Array,
    numbers: Array,
    targets: Array,
    across: Names,
    temperature: float,
    want_entropy: bool,
    penalty: float = 1.0,
    first: Array | None = None,
) -> tuple[Array, Array]:
    """`token_logps` on one shard: rows `numbers` of the table, whose other shards lie on the mesh axes `across`."""
    lead, length, width = targets.shape[:-1], targets.shape[-1], states.shape[-1]
    rows = targets.size // length
    chunk = max(1, min(length, layout().logits_bytes // (4 * table.shape[0] * max(rows, 1))))
    chunks = -(-length // chunk)
    padding = chunks * chunk - length
    x = jnp.pad(states.reshape(rows, length, width), ((0, 0), (0, padding), (0, 0)))
    y = jnp.pad(targets.reshape(rows, length), ((0, 0), (0, padding)))
    x = jnp.moveaxis(x.reshape(rows, chunks, chunk, width), 1, 0)
    y = jnp.moveaxis(y.reshape(rows, chunks, chunk), 1, 0)

    rounded = states.dtype != jnp.float32 and active() is None
    places = None if first is None else jnp.arange(chunks * chunk).reshape(chunks, chunk)

    def step(_, inputs):
        x, y, at = inputs
        logits = (_rounded_logits if rounded else _logits)(x, table)
        if first is not None:
            said = first.reshape(rows, 1, -1) <= at[None, :, None]
            logits = jnp.where(said, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
        logits = logits / temperature
        total = log_sum_exp(logits, across)
        logps = own_pick(logits, y, numbers, across) - total
        if not want_entropy:
            return None, (logps, jnp.zeros_like(logps))
        mean_logit = expectation(logits - total[..., None], logits)
        mean_logit = jax.lax.psum(mean_logit, across) if across else mean_logit
        return None, (logps, jax.lax.stop_gradient(total - mean_logit))

    # A single chunk is within the limit as it is: nothing to recompute.
    _, parts = jax.lax.scan(jax.checkpoint(step) if chunks > 1 else step, None, (x, y, places))
    logps, entropy = (jnp.moveaxis(p, 0, 1).reshape(rows, -1)[:, :length].reshape(*lead, length) for p in parts)
    return logps, entropy


def next_token(
    states: Float[Array, "B L D"], table: Float[Array, "V D"], tokens: Int[Array, "B L"], keep: Bool[Array, "B L"]
) -> Mean:
    """Cross-entropy of token t+1 from the `lm_head` input at t, over positions `keep` (see `target_mask`)."""
    targets = jnp.concatenate([tokens[:, 1:], tokens[:, -1:]], axis=1)
    logps, _ = token_logps(states, table, targets)
    return masked_mean(-logps, keep)
