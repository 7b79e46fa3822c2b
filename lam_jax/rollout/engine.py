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
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from lam_jax.models.inputs import Batch
from lam_jax.nn.axes import constrain_rows, constrain_samples
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.leaf import Leaf
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import is_apart
from lam_jax.nn.vocabulary import occurring
from lam_jax.rl.masks import is_end
from lam_jax.rollout.actions import Act, ActionSpace, Penalty, next_positions, shared_prompt
from lam_jax.rollout.sampling import SamplingConfig, Support, penalise_repeats, sample_keys


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """How prompts are continued.

    Attributes:
        samples: G, continuations of each prompt.
        length: T, most tokens of a continuation.
        sampling: how actions are drawn.
        stop: whether a continuation ends at a token that ends answers (`BackboneConfig.eos_ids`).
        segment: decode steps between two looks at whether all have ended.
    """

    samples: int = 8
    length: int = 64
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    stop: bool = True
    segment: int = 8

    def __post_init__(self):
        for name in ("samples", "length", "segment"):
            if getattr(self, name) < 1:
                raise ValueError(f"RolloutConfig.{name} must be at least 1, got {getattr(self, name)}.")


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


class _State(struct.PyTreeNode):
    """The decode loop's named state."""

    step: Int32[Array, ""]
    alive: Bool[Array, "N G"]
    hidden: Float[Array, "N G D"]  # of the newest token
    logits: Float[Array, "N G A"]  # for the next action
    # [N, G, 1, head_dim] of the next token's place. Made a step ahead: cosines that a step makes itself, XLA's CPU
    # backend makes again in every layer, for every head.
    rotary: Rotary
    seen: Bool[Array, "N G V"] | None  # for the repetition penalty
    cache: KVCache
    space: Any
    out: Rollout


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
    prompt_hidden, kv = backbone.prefill(prompts)
    logits, space_state = space.begin(prompt_hidden, prompts, config.samples, room)
    shape = (prompts.tokens.shape[0], config.samples, room)
    real = jnp.any(prompts.mask, axis=1)
    decoding = space.decoding()

    def rotary_at(t: Array) -> Rotary:
        return jax.tree.map(constrain_samples, backbone.rotary(next_positions(prompts, t, config.samples)))

    def act(keys: Array, hidden: Array, logits: Array, penalise: Penalty) -> Act:
        return decoding.act(keys, hidden, logits, prompts.has_image, config.sampling, penalise)

    def decode_step(_, state: _State) -> _State:
        t = state.step

        def penalise(token_logits: Array) -> Array:
            if state.seen is None:
                return token_logits
            return penalise_repeats(token_logits, state.seen, config.sampling.repetition_penalty)

        keys = sample_keys(key, sample_ids, t)
        drawn, spread, token = act(keys, state.hidden, state.logits, penalise)
        # A segment may run past the configured length: those steps are dead.
        alive = state.alive & (t < config.length)
        token = jnp.where(alive, token, model.pad_id)
        hidden, cache = decoding.backbone.decode(state.cache, token[..., None], state.rotary, t)
        logits, space_state = decoding.advance(state.space, hidden, state.rotary, prompts.has_image, t)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=t, axis=2)
        out = state.out.replace(
            tokens=put(state.out.tokens, token),
            actions=put(state.out.actions, drawn.action),
            mask=put(state.out.mask, alive),
            logps=put(state.out.logps, drawn.logp),
            logp_gap=put(state.out.logp_gap, drawn.logp_gap),
            entropy=put(state.out.entropy, spread),
            support=jax.tree.map(put, state.out.support, drawn.support),
            hidden=put(state.out.hidden, hidden[:, :, 0]),
        )
        seen = state.seen
        if seen is not None:
            seen = seen | jax.nn.one_hot(token, seen.shape[-1], dtype=bool)
        if config.stop:
            alive = alive & ~is_end(token, model.eos_ids)
        return _State(t + 1, alive, hidden[:, :, 0], logits, rotary_at(t + 1), seen, cache, space_state, out)

    hidden, logits = (shared_prompt(x, config.samples) for x in (prompt_hidden[:, -1], logits))
    first = jax.eval_shape(lambda: act(sample_keys(key, sample_ids, 0), hidden, logits, lambda x: x))
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
    state = _State(
        step=jnp.int32(0),
        alive=constrain_samples(jnp.broadcast_to(real[:, None], shape[:2])),
        hidden=hidden,
        logits=logits,
        rotary=rotary_at(jnp.int32(0)),
        seen=_seen(prompts, config, model.text.vocab_size),
        cache=KVCache.create(kv, prompts.mask, config.samples, room, is_apart(backbone.blocks)),
        space=space_state,
        out=_pinned(buffers),
    )
    state = jax.lax.while_loop(
        lambda s: (s.step < config.length) & jnp.any(s.alive),
        lambda s: jax.lax.fori_loop(0, config.segment, decode_step, s),
        state,
    )
    return _pinned(state.out.replace(**_cut(state.out, config.length)))


def _seen(prompts: Batch, config: RolloutConfig, vocab: int) -> Array | None:
    if config.sampling.repetition_penalty == 1.0:
        return None
    seen = occurring(prompts.tokens, prompts.mask, vocab)
    return constrain_samples(shared_prompt(seen, config.samples), "vocab")


def _pinned(out: Rollout) -> Rollout:
    """Every buffer on the axes of prompts and samples, those too that nothing else tells where to lie."""
    samples = jax.tree.map(constrain_samples, out.replace(prompt_hidden=None))
    return samples.replace(prompt_hidden=constrain_rows(out.prompt_hidden))


def _cut(out: Rollout, length: int) -> dict[str, Any]:
    """The buffers without the last segment's surplus."""
    names = ("tokens", "actions", "mask", "logps", "logp_gap", "entropy", "support", "hidden")
    return {name: jax.tree.map(lambda x: x[:, :, :length], getattr(out, name)) for name in names}
