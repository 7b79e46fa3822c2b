"""One rollout engine for both action spaces, one jitted program: each unique prompt is prefilled once, then decoded.

Decoding is a `while_loop` over segments of scanned steps with early exit; no host round trip inside.
Legend: N prompts, G samples of a prompt, P prompt length, T completion length, D width, A actions, S support slots,
V tokens.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key

from lam_jax.models.backbone import Backbone
from lam_jax.models.inputs import Batch
from lam_jax.nn.axes import constrain_rows, constrain_samples
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.leaf import Leaf
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import is_apart
from lam_jax.nn.stored import Storage, require_storage
from lam_jax.nn.vocabulary import occurring
from lam_jax.rl.masks import is_end
from lam_jax.rollout.actions import Act, ActionSpace, next_positions, shared_prompt
from lam_jax.rollout.sampling import Sampling, SamplingConfig, Support, penalise_repeats, sample_keys


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """How prompts are continued.

    Attributes:
        samples: G, continuations of each prompt.
        length: T, most tokens of a continuation.
        sampling: how actions are drawn.
        stop: whether a continuation ends at a token that ends answers (`BackboneConfig.eos_ids`).
        segment: decode steps between two looks at whether all have ended.
        weights: how decode steps hold the frozen backbone's matrices; see `LatentActions.decoding`.
    """

    samples: int = 8
    length: int = 64
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    stop: bool = True
    segment: int = 8
    weights: Storage = "same"

    def __post_init__(self):
        require_storage("RolloutConfig.weights", self.weights)
        for name in ("samples", "length", "segment"):
            if getattr(self, name) < 1:
                raise ValueError(f"RolloutConfig.{name} must be at least 1, got {getattr(self, name)}.")

    def answering(self) -> "RolloutConfig":
        """Of validation with the same draws: the most likely token under a code, by the full weights."""
        return dataclasses.replace(self, sampling=self.sampling.answering(), weights="same")


class Rollout(struct.PyTreeNode):
    """Continuations and everything that the policy update needs; nothing has to pass the backbone again."""

    tokens: Int32[Array, "N G T"] | Leaf  # pad after the end
    actions: Int32[Array, "N G T"] | Leaf
    mask: Bool[Array, "N G T"] | Leaf  # up to and including the token that ends it
    logps: Float32[Array, "N G T"] | Leaf  # behaviour log-probability of the actions
    logp_gap: Float32[Array, "N G T"] | Leaf  # log-probability over the truncated set minus that over all actions
    entropy: Float32[Array, "N G T"] | Leaf
    support: Support | None  # [N, G, T, S]
    prompt_hidden: Float[Array, "N P D"] | Leaf  # before the final norm
    hidden: Float[Array, "N G T D"] | Leaf  # state after each completion token, before the final norm

    @property
    def lengths(self) -> Array:
        """int32 [N, G], tokens of each continuation, the one that ends it included."""
        return jnp.sum(self.mask, axis=-1, dtype=jnp.int32)


class Running(struct.PyTreeNode):
    """What a decode step needs of the samples and leaves for the next one."""

    hidden: Float[Array, "N G D"] | Leaf  # of the newest token
    logits: Float[Array, "N G A"] | Leaf  # for the next action
    # [N, G, 1, head_dim] of the next token's place. Made a step ahead: cosines that a step makes itself, XLA's CPU
    # backend makes again in every layer, for every head.
    rotary: Any  # Rotary
    seen: Bool[Array, "N G V"] | Leaf | None  # for the repetition penalty
    cache: KVCache
    space: Any


class _State(struct.PyTreeNode):
    """The decode loop's named state."""

    step: Int32[Array, ""]
    alive: Bool[Array, "N G"]
    now: Running
    out: Rollout


def begin(
    space: ActionSpace, prompts: Batch, samples: int, room: int, sampling: Sampling
) -> tuple[Running, Float[Array, "N P D"]]:
    """G samples of each prompt before their first token, and the prompts' pre-norm states.

    Args:
        space: as it is, not `decoding`.
        prompts: left-padded.
        samples: G.
        room: tokens that each may have.
        sampling: how actions will be drawn.
    """
    backbone = space.backbone
    prompt_hidden, kv = backbone.prefill(prompts)
    logits, state = space.begin(prompt_hidden, prompts, samples, room)
    hidden, logits = (shared_prompt(x, samples) for x in (prompt_hidden[:, -1], logits))
    now = Running(
        hidden=hidden,
        logits=logits,
        rotary=rotary_at(backbone, next_positions(prompts, jnp.int32(0), samples)),
        seen=_seen(prompts, sampling, samples, backbone.config.text.vocab_size),
        cache=KVCache.create(kv, prompts.mask, samples, room, is_apart(backbone.blocks)),
        space=state,
    )
    return now, prompt_hidden


def rotary_at(backbone: Backbone, positions: Int[Array, "N G 3 1"]) -> Rotary:
    """Rotary embedding of a token of every sample."""
    return jax.tree.map(constrain_samples, backbone.rotary(positions))


def decode_step(
    decoding: ActionSpace,
    now: Running,
    keys: Key[Array, "N G"],
    alive: Bool[Array, "N G"],
    has_image: Bool[Array, " N"],
    rotary: Rotary,
    step: Int[Array, ""],
    sampling: Sampling,
) -> tuple[Running, Act]:
    """An action and a token of every sample.

    Args:
        decoding: `ActionSpace.decoding`.
        now: the samples.
        keys: of the draws.
        alive: whose tokens count; the others get padding.
        has_image: of the prompts.
        rotary: of the place after the new token.
        step: as of `kv_cache.decode`.
        sampling: how actions are drawn.
    """
    act = choose(decoding, now, keys, has_image, sampling)
    token = jnp.where(alive, act.token, decoding.backbone.config.pad_id)
    hidden, cache = decoding.backbone.decode(now.cache, token[..., None], now.rotary, step)
    logits, space = decoding.advance(now.space, hidden, now.rotary, has_image, step)
    seen = now.seen
    if seen is not None:
        seen = seen | jax.nn.one_hot(token, seen.shape[-1], dtype=bool)
    return Running(hidden[:, :, 0], logits, rotary, seen, cache, space), act._replace(token=token)


def choose(
    decoding: ActionSpace, now: Running, keys: Key[Array, "N G"], has_image: Bool[Array, " N"], sampling: Sampling
) -> Act:
    """The action of every sample and its token."""

    def penalise(token_logits: Array) -> Array:
        if now.seen is None:
            return token_logits
        return penalise_repeats(token_logits, now.seen, sampling.repetition_penalty)

    return decoding.act(keys, now.hidden, now.logits, has_image, sampling, penalise)


def rollout(
    space: ActionSpace, prompts: Batch, sample_ids: Int[Array, "N G"], key: Array, config: RolloutConfig
) -> Rollout:
    """Samples G continuations of each prompt.

    Args:
        space: token or latent actions.
        prompts: left-padded prompts; a row of padding only is allowed and gives junk under an all-False mask.
        sample_ids: global numbers of the samples: draws depend on them, not on the batch layout.
        key: one key for the whole rollout.
        config: static.
    """
    backbone = space.backbone
    model = backbone.config
    segments = math.ceil(config.length / config.segment)
    room = segments * config.segment
    now, prompt_hidden = begin(space, prompts, config.samples, room, config.sampling)
    shape = (prompts.tokens.shape[0], config.samples, room)
    real = jnp.any(prompts.mask, axis=1)
    decoding = space.decoding(config.weights)

    def step(_, state: _State) -> _State:
        t = state.step
        # A segment may run past the configured length: those steps are dead.
        alive = state.alive & (t < config.length)
        keys = sample_keys(key, sample_ids, t)
        rotary = rotary_at(backbone, next_positions(prompts, t + 1, config.samples))
        now, act = decode_step(decoding, state.now, keys, alive, prompts.has_image, rotary, t, config.sampling)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=t, axis=2)
        out = state.out.replace(
            tokens=put(state.out.tokens, act.token),
            actions=put(state.out.actions, act.drawn.action),
            mask=put(state.out.mask, alive),
            logps=put(state.out.logps, act.drawn.logp),
            logp_gap=put(state.out.logp_gap, act.drawn.logp_gap),
            entropy=put(state.out.entropy, act.entropy),
            support=jax.tree.map(put, state.out.support, act.drawn.support),
            hidden=put(state.out.hidden, now.hidden),
        )
        if config.stop:
            alive = alive & ~is_end(act.token, model.eos_ids)
        return _State(t + 1, alive, now, out)

    first = jax.eval_shape(
        lambda: choose(decoding, now, sample_keys(key, sample_ids, 0), prompts.has_image, config.sampling)
    )
    empty = functools.partial(jnp.zeros, shape)
    buffers = Rollout(
        tokens=jnp.full(shape, model.pad_id, jnp.int32),
        actions=empty(jnp.int32),
        mask=empty(bool),
        logps=empty(jnp.float32),
        logp_gap=empty(jnp.float32),
        entropy=empty(jnp.float32),
        support=jax.tree.map(lambda s: jnp.zeros((*shape, s.shape[-1]), s.dtype), first.drawn.support),
        prompt_hidden=prompt_hidden,
        hidden=jnp.zeros((*shape, prompt_hidden.shape[-1]), prompt_hidden.dtype),
    )
    alive = constrain_samples(jnp.broadcast_to(real[:, None], shape[:2]))
    state = _State(jnp.int32(0), alive, now, _pinned(buffers))
    state = jax.lax.while_loop(
        lambda s: (s.step < config.length) & jnp.any(s.alive),
        lambda s: jax.lax.fori_loop(0, config.segment, step, s),
        state,
    )
    return _pinned(state.out.replace(**_cut(state.out, config.length)))


def _seen(prompts: Batch, sampling: Sampling, samples: int, vocab: int) -> Array | None:
    if sampling.repetition_penalty == 1.0:
        return None
    seen = occurring(prompts.tokens, prompts.mask, vocab)
    return constrain_samples(shared_prompt(seen, samples), "vocab")


def _pinned(out: Rollout) -> Rollout:
    """Every buffer on the axes of prompts and samples, those too that nothing else tells where to lie."""
    samples = jax.tree.map(constrain_samples, out.replace(prompt_hidden=None))
    return samples.replace(prompt_hidden=constrain_rows(out.prompt_hidden))


def _cut(out: Rollout, length: int) -> dict[str, Any]:
    """The buffers without the last segment's surplus."""
    names = ("tokens", "actions", "mask", "logps", "logp_gap", "entropy", "support", "hidden")
    return {name: jax.tree.map(lambda x: x[:, :, :length], getattr(out, name)) for name in names}
