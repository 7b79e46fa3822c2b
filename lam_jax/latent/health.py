"""Codebook health (method.md section 6). Legend: B rows, L length, K codes."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lam_jax.nn.leaf import Leaf
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


class CodeSums(struct.PyTreeNode):
    """Sums over positions from which all figures follow: sums of rows or batches add up to those of their union."""

    probability: Float[Array, "*B K"] | Leaf  # of the noise-free softmax
    entropy: Float[Array, "*B"] | Leaf  # of each position's softmax, nats
    hits: Float[Array, "*B K"] | Leaf  # positions whose argmax is the code
    positions: Float[Array, "*B"] | Leaf

    @property
    def health(self) -> Health:
        """The figures of these positions together; sums without leading dimensions."""
        codes = self.probability.shape[-1]
        total = jnp.maximum(self.positions, 1.0)
        mean = self.probability / total
        conditional = self.entropy / total
        usage = self.hits / jnp.maximum(jnp.sum(self.hits), 1.0)
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


def row_sums(logits: Float[Array, "B L K"], valid: Bool[Array, "B L"]) -> CodeSums:
    """Sums of each row from noise-free code logits over valid positions."""
    weight = valid.astype(jnp.float32)
    p = jax.nn.softmax(logits, axis=-1)
    hits = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1]) * weight[..., None]
    return CodeSums(
        probability=jnp.sum(p * weight[..., None], axis=1),
        entropy=jnp.sum(_entropy(p) * weight, axis=1),
        hits=jnp.sum(hits, axis=1),
        positions=jnp.sum(weight, axis=1),
    )


def health(logits: Float[Array, "B L K"], valid: Bool[Array, "B L"]) -> Health:
    """Health of one batch from noise-free code logits over valid positions."""
    weight = valid.astype(jnp.float32)
    p = jax.nn.softmax(logits, axis=-1)
    hits = jnp.zeros(logits.shape[-1], jnp.float32).at[jnp.argmax(logits, axis=-1).reshape(-1)].add(weight.reshape(-1))
    return CodeSums(
        probability=jnp.sum(p * weight[..., None], axis=(0, 1)),
        entropy=jnp.sum(_entropy(p) * weight),
        hits=hits,
        positions=jnp.sum(weight),
    ).health


def histogram(actions: Int[Array, "B L"], valid: Bool[Array, "B L"], codes: int) -> Float[Array, " K"]:
    """Share of valid positions that hold each code."""
    hits = jnp.zeros(codes, jnp.float32).at[actions.reshape(-1)].add(valid.reshape(-1).astype(jnp.float32))
    return hits / jnp.maximum(jnp.sum(hits), 1.0)


def divergence(logits: Float[Array, "... V"], other: Float[Array, "... V"]) -> Float[Array, "..."]:
    """KL(softmax(logits) || softmax(other)): the causal test compares the chosen action with a random one."""
    logp, logq = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(other, axis=-1)
    return expectation(logp, logp - logq)
