"""Codebook health (method.md section 6). Legend: B rows, L length, K codes."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lam_jax.nn.vocabulary import expectation


class Health(struct.PyTreeNode):
    """What goes wrong first in a codebook; entropies in nats."""

    perplexity: Array  # exp(H(mean p))
    used_share: Array  # share of the codes that are some position's argmax
    dead_codes: Array  # codes that are no position's argmax
    top_share: Array  # share of positions that take the commonest code
    conditional_entropy: Array  # E[H(p)]
    mutual_information: Array  # H(mean p) - E[H(p)]
    usage: Array  # [K], share of positions whose argmax is the code

    def scalars(self, prefix: str = "") -> dict[str, Array]:
        """Everything but the histogram, for a metrics log."""
        names = [f for f in self.__dataclass_fields__ if f != "usage"]
        return {f"{prefix}{name}": getattr(self, name) for name in names}


def _entropy(p: Array) -> Array:
    return -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1)


def health(logits: Float[Array, "B L K"], valid: Bool[Array, "B L"]) -> Health:
    """Health of one batch from noise-free code logits over valid positions."""
    codes = logits.shape[-1]
    weight = valid.astype(jnp.float32)
    total = jnp.maximum(jnp.sum(weight), 1.0)
    p = jax.nn.softmax(logits, axis=-1)
    mean = jnp.sum(p * weight[..., None], axis=(0, 1)) / total
    conditional = jnp.sum(_entropy(p) * weight) / total
    usage = histogram(jnp.argmax(logits, axis=-1), valid, codes)
    used = jnp.sum(usage > 0, dtype=jnp.float32)
    return Health(
        perplexity=jnp.exp(_entropy(mean)),
        used_share=used / codes,
        dead_codes=codes - used,
        top_share=jnp.max(usage),
        conditional_entropy=conditional,
        mutual_information=_entropy(mean) - conditional,
        usage=usage,
    )


def histogram(actions: Int[Array, "B L"], valid: Bool[Array, "B L"], codes: int) -> Float[Array, " K"]:
    """Share of valid positions that hold each code."""
    hits = jnp.zeros(codes, jnp.float32).at[actions.reshape(-1)].add(valid.reshape(-1).astype(jnp.float32))
    return hits / jnp.maximum(jnp.sum(hits), 1.0)


def divergence(logits: Float[Array, "... V"], other: Float[Array, "... V"]) -> Float[Array, "..."]:
    """KL(softmax(logits) || softmax(other)): the causal test compares the chosen action with a random one."""
    logp, logq = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(other, axis=-1)
    return expectation(logp, logp - logq)
