"""Sampling of actions (codes or tokens) and the log-probabilities that RL needs (method.md section 4).

The truncated set (top-k, then temperature, then top-p) is computed once, from the behaviour policy, and kept with the
sample: pi, pi_old and pi_ref are all renormalised over that same `Support`, so that their ratios compare
distributions over the same actions.

K actions, S = slots of the support (the configured top-k, at most K).
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, Int32, Key

from lam_jax.nn.axes import constrain_last
from lam_jax.nn.leaf import Leaf
from lam_jax.nn.vocabulary import arg_max, expectation, pick, pick_many, top_k
from lam_jax.rollout.noise import each, gumbel_noise

_EMISSION = 1  # folded into the key of a step
NEVER = -1e30  # log-probability of an action outside the support; finite, so that no NaN gradient can arise


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How an action is drawn.

    Attributes:
        temperature: divides the logits; 0 takes the most likely action.
        top_k: number of most likely actions to choose from; None = all.
        top_p: smallest set of actions, likeliest first, whose probability reaches this; 1 = all.
        repetition_penalty: of tokens that already occur, as in CTRL; see `penalise_repeats`.
        renormalise: log-probabilities are taken over the truncated set. False is the released code's choice: the
            full softmax for pi, pi_old and pi_ref, although the sample came from the truncated one.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    renormalise: bool = True

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}, expected 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, expected at least 1, or None for all actions")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}, expected more than 0 (1 = none)")

    @property
    def greedy(self) -> bool:
        """The most likely action is taken, without noise."""
        return self.temperature == 0

    @property
    def truncates(self) -> bool:
        """Some actions can be cut off, so a support has to be kept."""
        return self.top_k is not None or self.top_p < 1

    @property
    def scale(self) -> float:
        """Temperature of the scored distribution: a greedy choice is scored at temperature 1."""
        return 1.0 if self.greedy else self.temperature

    @property
    def emission(self) -> float:
        """Temperature at which the token is drawn under a code; 0: the most likely one is taken."""
        return 0.0

    def official(self) -> "SamplingConfig":
        """The released code's log-probabilities: over all actions."""
        return dataclasses.replace(self, renormalise=False)

    def answering(self) -> "SamplingConfig":
        """How answers are drawn that are scored: actions as here, the most likely token under a code."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(SamplingConfig)}
        return SamplingConfig(**values)


@dataclasses.dataclass(frozen=True)
class HybridSampling(SamplingConfig):
    """How a code is drawn, and then the token under it: rollouts of the hybrid space (method.md section 4).

    What the fields of `SamplingConfig` say is about the code; the repetition penalty falls on the token.

    Attributes:
        emission: temperature of the token, which is drawn from all tokens.
    """

    emission: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.emission < float("inf"):
            raise ValueError(
                f"emission is {self.emission}, expected more than 0; SamplingConfig takes the most likely token"
            )


class RowSampling(flax.struct.PyTreeNode):
    """How each row's action is drawn: temperature and top-p are inputs, so that other values compile nothing.

    An action is that of `SamplingConfig` with the row's values. What was kept is not recorded, nor the entropy.
    """

    temperature: Float32[Array, "*B"] | Leaf
    top_p: Float32[Array, "*B"] | Leaf
    truncates: Bool[Array, ""] | Leaf  # whether some row's top-p is below 1: only then are actions put in order
    # Of all rows.
    top_k: int | None = flax.struct.field(pytree_node=False, default=None)
    repetition_penalty: float = flax.struct.field(pytree_node=False, default=1.0)
    renormalise: bool = flax.struct.field(pytree_node=False, default=True)

    @property
    def emission(self) -> float:
        """The most likely token is taken under a code."""
        return 0.0


Sampling = SamplingConfig | RowSampling


class Support(flax.struct.PyTreeNode):
    """The actions that the behaviour policy could have chosen at each step."""

    indices: Int32[Array, "*B S"] | Leaf  # action numbers, likeliest first
    kept: Bool[Array, "*B S"] | Leaf  # False = cut by top-p


class Sample(flax.struct.PyTreeNode):
    """A drawn action and how likely it was under the behaviour policy."""

    action: Int32[Array, "*B"] | Leaf
    logp: Float32[Array, "*B"] | Leaf  # over the support, or over all actions where the config does not renormalise
    logp_gap: Float32[Array, "*B"] | Leaf  # over the support minus over all actions, 0 or more: logged
    support: Support | None  # None where nothing is truncated or log-probabilities are over all actions


def sample_keys(key: Key[Array, ""], sample_ids: Int[Array, "*B"], step: Int[Array, ""] | int) -> Key[Array, "*B"]:
    """A key of each sample and step: draws do not depend on how samples are laid out over batches and devices.

    Args:
        key: one key for the whole rollout.
        sample_ids: global numbers of the samples.
        step: decode step.
    """
    return each(lambda sample: jax.random.fold_in(jax.random.fold_in(key, sample), step), sample_ids)


def emission_keys(keys: Key[Array, "*B"]) -> Key[Array, "*B"]:
    """The key of each token's own draw, beside that of its code, for which `keys` are."""
    return each(lambda key: jax.random.fold_in(key, _EMISSION), keys)


def penalise_repeats(
    logits: Float32[Array, "*B V"], seen: Bool[Array, "*B V"], penalty: float
) -> Float32[Array, "*B V"]:
    """Make tokens that already occurred less likely (CTRL, arXiv 1909.05858): positive logits / penalty, others *."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def truncate(logits: Float32[Array, "*B K"], config: SamplingConfig, axis: str = "codes") -> Support:
    """The set of actions that `config` leaves to choose from; `axis` is the actions' logical axis, see `sample`."""
    count = logits.shape[-1]
    top, indices = top_k(logits, min(config.top_k or count, count), axis)
    kept = _before(top / config.scale) < config.top_p if config.top_p < 1 else jnp.ones(top.shape, bool)
    return Support(indices=indices.astype(jnp.int32), kept=kept)


def _before(top: Float32[Array, "*B S"]) -> Float32[Array, "*B S"]:
    """Probability of the likelier actions of each slot: an action stays while it does not reach top-p, the first one
    always."""
    probabilities = jax.nn.softmax(top, axis=-1)
    return jnp.cumsum(probabilities, axis=-1) - probabilities


def support_logps(logits: Float32[Array, "*B K"], support: Support, temperature: float = 1.0) -> Float32[Array, "*B S"]:
    """Log-probabilities of the support's actions, normalised over the kept ones; `NEVER` for those that were cut."""
    chosen = pick_many(logits, support.indices) / temperature
    logps = jax.nn.log_softmax(jnp.where(support.kept, chosen, NEVER), axis=-1)
    return jnp.where(support.kept, logps, NEVER)


def action_logps(
    logits: Float32[Array, "*B K"],
    action: Int32[Array, "*B"],
    support: Support | None = None,
    temperature: float = 1.0,
) -> Float32[Array, "*B"]:
    """Log-probability of recorded actions under any policy (pi, pi_old or pi_ref).

    Args:
        logits: the policy's.
        action: recorded actions.
        support: the behaviour policy's stored set; None = all actions.
        temperature: that of the rollout.

    Returns:
        `NEVER` for an action outside its support (positions after the end of a completion may hold such).
    """
    if support is None:
        chosen = pick(logits, action) / temperature
        return chosen - jax.nn.logsumexp(logits / temperature, axis=-1)
    match = (support.indices == action[..., None]) & support.kept
    return jnp.max(jnp.where(match, support_logps(logits, support, temperature), NEVER), axis=-1)


def entropy(
    logits: Float32[Array, "*B K"], support: Support | None = None, temperature: float = 1.0
) -> Float32[Array, "*B"]:
    """Entropy in nats of the softmax over the support, or over all actions."""
    if support is None:
        logps = jax.nn.log_softmax(logits / temperature, axis=-1)
    else:
        logps = support_logps(logits, support, temperature)
    return -expectation(logps, logps)


def sample(keys: Key[Array, "*B"], logits: Float32[Array, "*B K"], config: Sampling, axis: str = "codes") -> Sample:
    """Draw an action of each row by the Gumbel-max trick.

    Args:
        keys: one per row, from `sample_keys`.
        logits: the behaviour policy's, repetition penalty already applied.
        config: truncation, temperature and which log-probability is recorded.
        axis: logical axis of the actions: "codes", or "vocab", which may lie in shards.
    """
    if isinstance(config, RowSampling):
        return _sample_rows(keys, logits, config, axis)
    support = truncate(logits, config, axis) if config.truncates else None
    if support is None:
        scores = logits / config.scale
    else:
        scores = support_logps(logits, support, config.scale)
    if not config.greedy:
        noise = gumbel_noise(keys, scores.shape[-1])
        scores = scores + (constrain_last(noise, axis) if support is None else noise)
    choice = arg_max(scores)
    if support is None:
        logp = action_logps(logits, choice, None, config.scale)
        return Sample(action=choice, logp=logp, logp_gap=jnp.zeros_like(logp), support=None)
    action = jnp.take_along_axis(support.indices, choice[..., None], axis=-1)[..., 0]
    over_all = action_logps(logits, action, None, config.scale)
    over_support = action_logps(logits, action, support, config.scale)
    return Sample(
        action=action,
        logp=over_support if config.renormalise else over_all,
        logp_gap=over_support - over_all,
        support=support if config.renormalise else None,
    )


def _sample_rows(keys: Array, logits: Array, rows: RowSampling, axis: str) -> Sample:
    """As `sample`, settings by row."""
    greedy = (rows.temperature == 0)[..., None]
    scaled = logits / jnp.where(greedy, 1.0, rows.temperature[..., None])
    count = logits.shape[-1]
    slots = min(rows.top_k or count, count)

    def noisy(scores: Array, noise_axis: str | None) -> Array:
        noise = gumbel_noise(keys, scores.shape[-1])
        noise = noise if noise_axis is None else constrain_last(noise, noise_axis)
        return jnp.where(greedy, scores, scores + noise)

    def from_all() -> tuple[Array, Array, Array]:
        action = arg_max(noisy(scaled, axis))
        logp = action_logps(scaled, action)
        return action, logp, jnp.zeros_like(logp)

    def from_kept() -> tuple[Array, Array, Array]:
        top, indices = top_k(scaled, slots, axis)
        cut = rows.top_p < 1
        kept = (_before(top) < rows.top_p[..., None]) | ~cut[..., None]
        support = Support(indices=indices.astype(jnp.int32), kept=kept)
        choice = arg_max(noisy(support_logps(scaled, support), None))
        action = jnp.take_along_axis(support.indices, choice[..., None], axis=-1)[..., 0]
        over_all, over_kept = action_logps(scaled, action), action_logps(scaled, action, support)
        found = action, over_kept if rows.renormalise else over_all, over_kept - over_all
        if rows.top_k is not None:
            return found
        action, logp, gap = (jnp.where(cut, one, other) for one, other in zip(found, from_all()))
        return action, logp, gap

    if rows.top_k is not None:
        action, logp, gap = from_kept()
    else:
        action, logp, gap = jax.lax.cond(rows.truncates, from_kept, from_all)
    return Sample(action=action, logp=logp, logp_gap=gap, support=None)
