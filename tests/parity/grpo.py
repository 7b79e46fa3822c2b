"""Recompute every array of a `*_grpo.npz` golden set (losses, gradients, advantages, masks, sampler) with lam_jax."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.rl import ALGORITHMS, Algorithm, BatchCounts, completion_mask, loss_denominator, policy_loss
from lam_jax.rl.advantages import normalise_rewards
from lam_jax.rollout.sampling import SamplingConfig, support_logps, truncate

INPUTS = ("logps", "old_logps", "ref_logps", "advantages", "mask")
CONSTANTS = ("beta", "eps_low", "eps_high", "max_completion_length", "num_items_in_batch")
ALGORITHM_NAMES = ("grpo", "bnpo", "dr_grpo", "dapo")
VARIANTS = ("", "_noold", "_seq", "_epshigh028", "_ga4", "_delta1p3", "_beta0")
ADVANTAGES = {"adv/group": "group_std", "adv/none": "group_mean", "adv/batch": "batch_std"}
METRICS = {
    "metrics/kl": "kl",
    "metrics/clip_ratio_low_mean": "clip_fraction_low",
    "metrics/clip_ratio_high_mean": "clip_fraction_high",
    "metrics/clip_ratio_region_mean": "clip_fraction",
}
SAMPLERS = {
    "sampler/probs_topk32_tau1": SamplingConfig(top_k=32),
    "sampler/probs_topk8_tau1": SamplingConfig(top_k=8),
    "sampler/probs_topk64_tau0p1": SamplingConfig(top_k=64, temperature=0.1),
}


def check_grpo(npz: Mapping[str, np.ndarray], eos_id: int | None = None) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Every array of the set as (name, ours, reference), inputs included, in the set's order.

    An array that lam_jax has no counterpart for is compared with NaN, so that it can only fail.

    Args:
        npz: the set, an `np.load` result or a dict.
        eos_id: the set's end-of-turn token; found from its mask when not given.
    """
    reference = {name: np.asarray(npz[name]) for name in npz}
    given = INPUTS + CONSTANTS + ("adv/rewards", "adv/num_generations", "eos/completion_ids", "sampler/logits")
    ours = {name: reference[name] for name in given}
    # one program for all variants: compiling is what takes the time
    for (name, variant), (loss, gradient, metrics) in jax.jit(lambda: _all_losses(reference))().items():
        ours[f"{name}{variant}/loss"] = loss
        ours[f"{name}{variant}/grad_logps"] = gradient
        if name == "grpo" and not variant:
            ours |= {key: metrics[of] for key, of in METRICS.items()}
    rewards = reference["adv/rewards"].reshape(-1, int(reference["adv/num_generations"]))
    for name, kind in ADVANTAGES.items():
        ours[name] = normalise_rewards(rewards, np.ones(rewards.shape, bool), kind).reshape(-1)
    tokens = jnp.asarray(reference["eos/completion_ids"], jnp.int32)
    eos_id = eos_of(reference) if eos_id is None else eos_id
    ours["eos/mask"] = completion_mask(tokens, eos_id).astype(jnp.int32)
    for name, config in SAMPLERS.items():
        ours[name] = _probabilities(jnp.asarray(reference["sampler/logits"]), config)
    return [(name, np.asarray(ours.get(name, np.nan)), value) for name, value in reference.items()]


def eos_of(reference: Mapping[str, np.ndarray]) -> int:
    """The end-of-turn id, which the set does not name: the token at the end of a mask that ends early.

    A row whose mask is full tells nothing (it may just have been cut), and without any early end every id that does
    not occur before the last position explains the mask equally well, so -1 (no such token) is returned.
    """
    tokens, mask = reference["eos/completion_ids"], reference["eos/mask"]
    lengths = mask.sum(axis=1)
    early = np.flatnonzero(lengths < mask.shape[1])
    return int(tokens[early[0], lengths[early[0]] - 1]) if len(early) else -1


def _algorithm(reference: Mapping[str, np.ndarray], name: str, variant: str) -> Algorithm:
    algorithm = dataclasses.replace(
        ALGORITHMS[name].official(),
        beta=float(reference["beta"]),
        clip_low=float(reference["eps_low"]),
        clip_high=float(reference["eps_high"]),
    )
    changes = {
        "_seq": {"importance": "sequence"},
        "_epshigh028": {"clip_high": 0.28},
        "_delta1p3": {"clip_delta": 1.3},
        "_beta0": {"beta": 0.0},
    }
    return dataclasses.replace(algorithm, **changes.get(variant, {}))


def _all_losses(reference):
    return {
        (name, variant): _loss_and_gradient(reference, name, variant)
        for name in ALGORITHM_NAMES
        for variant in VARIANTS
    }


def _loss_and_gradient(reference, name: str, variant: str):
    algorithm = _algorithm(reference, name, variant)
    inputs = {key: jnp.asarray(reference[key], jnp.float32) for key in INPUTS[:4]}
    mask = jnp.asarray(reference["mask"], bool)
    # The rows are one of `steps` equal micro-batches; the set gives DAPO's token count of the global batch itself.
    steps = 4 if variant == "_ga4" else 1
    counts = BatchCounts(
        sequences=jnp.float32(steps * mask.shape[0]),
        tokens=jnp.float32(reference["num_items_in_batch"]),
        local_batches=jnp.float32(steps),
    )
    denominator = loss_denominator(algorithm.normaliser, counts, int(reference["max_completion_length"]))
    old_logps = None if variant == "_noold" else inputs["old_logps"]

    def loss_of(logps):
        return policy_loss(algorithm, logps, old_logps, inputs["ref_logps"], inputs["advantages"], mask, denominator)

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(inputs["logps"])
    return loss, gradient, metrics.means()


def _probabilities(logits: jax.Array, config: SamplingConfig) -> jax.Array:
    support = truncate(logits, config)
    probabilities = jnp.exp(support_logps(logits, support, config.scale))
    rows = jnp.arange(logits.shape[0])[:, None]
    return jnp.zeros_like(logits).at[rows, support.indices].add(probabilities)
