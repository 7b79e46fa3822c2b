"""The policy-gradient surrogate (method.md section 4): arrays in, a scalar and metrics out, no forward pass.

    r  = exp(log pi - log pi_old)
    s  = -min(r A, clip(r, 1 - eps_low, 1 + eps_high) A) + beta * k3
    k3 = expm1(d) - d,  d = log pi_ref - log pi, held within K3_RANGE

B sequences, T completion positions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from lam_jax.nn.leaf import Leaf
from lam_jax.rl.algorithm import Algorithm
from lam_jax.rl.normalisers import loss_numerator

# Beyond it k3 keeps the value and the slope that it has at the bound. Of the actions that a policy draws fewer than
# e^-10 = 4.5e-5 lie above d = 10, so the estimate loses next to nothing; a single one at d = 20 has a slope of 5e8.
K3_RANGE = (-100.0, 10.0)


class PolicyMetrics(flax.struct.PyTreeNode):
    """Sums over active tokens (`ratio_max` is a maximum), so that micro-batches merge exactly. All scalars, fp32."""

    tokens: Float32[Array, ""] | Leaf
    kl: Float32[Array, ""] | Leaf
    clip_low: Float32[Array, ""] | Leaf
    clip_high: Float32[Array, ""] | Leaf
    ratio: Float32[Array, ""] | Leaf
    ratio_max: Float32[Array, ""] | Leaf
    entropy: Float32[Array, ""] | Leaf
    parts: dict[str, Float32[Array, ""] | Leaf]  # further entropies, by name

    @classmethod
    def none(cls, parts: Sequence[str] = ()) -> "PolicyMetrics":
        """Of an empty batch, with these further entropies."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "parts"]
        zeros: dict[str, Any] = {name: np.zeros((), np.float32) for name in names}
        return cls(**zeros, parts={name: np.zeros((), np.float32) for name in parts})

    def merge(self, other: "PolicyMetrics") -> "PolicyMetrics":
        """Metrics of both micro-batches together."""
        merged = jax.tree.map(jnp.add, self, other)
        return merged.replace(ratio_max=jnp.maximum(self.ratio_max, other.ratio_max))

    def means(self) -> dict[str, Float32[Array, ""]]:
        """Means over active tokens under the names used in metrics.jsonl; 0 for an empty batch."""
        tokens = jnp.maximum(self.tokens, 1.0)
        return {
            "kl": self.kl / tokens,
            "clip_fraction_low": self.clip_low / tokens,
            "clip_fraction_high": self.clip_high / tokens,
            "clip_fraction": (self.clip_low + self.clip_high) / tokens,
            "ratio_mean": self.ratio / tokens,
            "ratio_max": self.ratio_max,
            "entropy": self.entropy / tokens,
            **{name: total / tokens for name, total in self.parts.items()},
        }


def importance_log_ratio(
    algorithm: Algorithm, logps: Float[Array, "B T"], old_logps: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """log r of every token; under `sequence` importance the mean over a sequence's tokens, repeated (GSPO)."""
    log_ratio = jnp.where(mask, logps - old_logps, 0.0)
    if algorithm.importance == "token":
        return log_ratio
    length = jnp.maximum(mask.sum(axis=1, keepdims=True).astype(log_ratio.dtype), 1.0)
    return jnp.broadcast_to(log_ratio.sum(axis=1, keepdims=True) / length, log_ratio.shape)


def k3_divergence(logps: Float[Array, "B T"], ref_logps: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Schulman's k3: an estimate of KL(pi || pi_ref) from samples of pi that is never negative.

    It is unbiased but for differences beyond `K3_RANGE`, where it stays at its value and slope at the bound: at most
    22,015 with a gradient of at most 22,025 in size, however far pi is from pi_ref.
    """
    difference = ref_logps - logps
    held = jax.lax.stop_gradient(jnp.clip(difference, *K3_RANGE))
    # Adds 0, and the gradient that the clip would take away. Within the range no bit changes.
    held = held + (difference - jax.lax.stop_gradient(difference))
    return jnp.expm1(held) - held


def policy_loss(
    algorithm: Algorithm,
    logps: Float32[Array, "B T"],
    old_logps: Float32[Array, "B T"] | None,
    ref_logps: Float32[Array, "B T"] | None,
    advantages: Float32[Array, "B"],
    mask: Bool[Array, "B T"],
    denominator: Float32[Array, ""],
    entropies: Float32[Array, "B T"] | None = None,
    local_batches: int = 1,
    parts: Mapping[str, Float32[Array, "B T"]] | None = None,
) -> tuple[Float32[Array, ""], PolicyMetrics]:
    """Loss of a micro-batch: its share of the global batch's loss (sum the shares, and their gradients).

    Args:
        algorithm: which surrogate.
        logps: log pi of the sampled actions, the only input that carries gradient.
        old_logps: log-probabilities recorded at the rollout. None: the update is on-policy, r = 1 with pi's gradient.
        ref_logps: log pi_ref; may be None when `algorithm.beta` is 0.
        advantages: one per sequence.
        mask: active tokens: up to the first end-of-turn token, False throughout for inactive samples. Inactive
            positions may hold anything.
        denominator: `loss_denominator` of the whole global batch.
        entropies: per-token entropy of pi, for the metrics only.
        local_batches: BNPO's local batches among these rows.
        parts: entropies of parts of the action, by the names of their metrics.

    Raises:
        ValueError: `ref_logps` is missing while beta is positive.
    """
    if algorithm.beta > 0 and ref_logps is None:
        raise ValueError(f"{algorithm.name} has beta = {algorithm.beta} and needs ref_logps; pass them or set beta=0")
    logps = jnp.where(mask, logps, 0.0)
    old_logps = jax.lax.stop_gradient(logps) if old_logps is None else old_logps
    ratio = jnp.exp(importance_log_ratio(algorithm, logps, old_logps, mask))
    weights = advantages[:, None]
    low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high

    if algorithm.objective == "cispo":
        token_loss = -jax.lax.stop_gradient(jnp.minimum(ratio, high)) * weights * logps
    else:
        bounded = ratio if algorithm.clip_delta is None else jnp.minimum(ratio, algorithm.clip_delta)
        token_loss = -jnp.minimum(bounded * weights, jnp.clip(ratio, low, high) * weights)

    if ref_logps is None:
        kl = jnp.zeros_like(logps)
    else:
        kl = k3_divergence(logps, jnp.where(mask, ref_logps, 0.0))
        # skipped at beta = 0 so that an overflowing k3 cannot put 0 * inf into the loss
        token_loss = token_loss + algorithm.beta * kl if algorithm.beta > 0 else token_loss

    loss = loss_numerator(algorithm.normaliser, token_loss, mask, local_batches) / denominator
    metrics = _metrics(algorithm, ratio, weights, kl, mask, entropies, parts or {})
    return loss, jax.lax.stop_gradient(metrics)


def _metrics(algorithm, ratio, weights, kl, mask, entropies, parts) -> PolicyMetrics:
    def total(x):
        return jnp.where(mask, x, 0.0).astype(jnp.float32).sum()

    clipped_high = ratio > 1 + algorithm.clip_high
    if algorithm.objective == "clipped":  # clipping only acts on the side that the advantage pushes towards
        clipped_high = clipped_high & (weights > 0)
        clipped_low = (ratio < 1 - algorithm.clip_low) & (weights < 0)
    else:
        clipped_low = jnp.zeros_like(mask)
    return PolicyMetrics(
        tokens=mask.sum().astype(jnp.float32),
        kl=total(kl),
        clip_low=total(clipped_low.astype(jnp.float32)),
        clip_high=total(clipped_high.astype(jnp.float32)),
        ratio=total(ratio),
        ratio_max=jnp.where(mask, ratio, 0.0).max(),
        entropy=jnp.float32(0.0) if entropies is None else total(entropies),
        parts={name: total(values) for name, values in parts.items()},
    )
