"""Action spaces as values: one turns hidden states into logits over its actions, draws one, and makes it a token.

Legend: N prompts, G samples of a prompt, P prompt length, T completion length, D width, A actions (K codes or V
tokens).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from lam_jax.latent.agent import Agent, Reading
from lam_jax.latent.world import TabulatedWorld, readout
from lam_jax.models.backbone import Backbone
from lam_jax.models.families import spec_of
from lam_jax.models.inputs import Batch
from lam_jax.nn.axes import ANY, constrain, gathered, scattered, wide_axes
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import is_apart
from lam_jax.nn.stored import Storage
from lam_jax.nn.vocabulary import largest
from lam_jax.rollout.sampling import RowSampling, Sample, Sampling, SamplingConfig, emission_keys, entropy, sample

# Repetition penalty on next-token logits [N, G, V]; the identity where there is none.
Penalty = Callable[[Array], Array]


class Act(NamedTuple):
    """An action of every sample."""

    drawn: Sample
    entropy: Float32[Array, "N G"]
    token: Int[Array, "N G"]


@runtime_checkable
class ActionSpace(Protocol):
    """What the engine asks of an action space, a pytree of weights."""

    @property
    def backbone(self) -> Backbone:
        """What reads the tokens."""
        ...

    @property
    def specs(self) -> Any:
        """Specs of all weights."""
        ...

    def begin(
        self, hidden: Float[Array, "N P D"], prompts: Batch, samples: int, length: int
    ) -> tuple[Float[Array, "N A"], Any]:
        """Logits of the first action, and the space's own state for `length` steps of all samples."""
        ...

    def decoding(self, weights: Storage = "same") -> "ActionSpace":
        """The same space laid out for decoding, the frozen backbone's weights held so; not to call `begin` on it."""
        ...

    def advance(
        self, state: Any, hidden: Float[Array, "N G 1 D"], rotary: Rotary, has_image: Array, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G A"], Any]:
        """Logits of the next action from the state of the newest token."""
        ...

    def act(
        self,
        keys: Key[Array, "N G"],
        hidden: Float[Array, "N G D"],
        logits: Float[Array, "N G A"],
        has_image: Bool[Array, " N"],
        sampling: Sampling,
        penalise: Penalty,
    ) -> Act:
        """Draws an action from `logits` and emits its token after the state `hidden`."""
        ...


def _draw(keys: Array, logits: Array, sampling: Sampling, axis: str) -> tuple[Sample, Array]:
    """Actions on the logical axis `axis`, and the entropy of what they were drawn from, NaN where it is by row."""
    drawn = sample(keys, logits, sampling, axis)
    if isinstance(sampling, RowSampling):
        return drawn, jnp.full_like(drawn.logp, jnp.nan)
    return drawn, entropy(logits, drawn.support, sampling.scale)


class TokenActions(struct.PyTreeNode):
    """Actions are tokens, from the backbone's own logits."""

    backbone: Backbone

    @property
    def specs(self) -> "TokenActions":
        """Specs of all weights."""
        return self.replace(backbone=spec_of(self.backbone.config))

    def begin(
        self, hidden: Float[Array, "N P D"], prompts: Batch, samples: int, length: int
    ) -> tuple[Float[Array, "N V"], None]:
        """Logits of the first action, and no state of its own."""
        return self._logits(hidden[:, -1]), None

    def decoding(self, weights: Storage = "same") -> "TokenActions":
        """The same space with weights laid out for decoding; `begin` is not to be called on it.

        Raises:
            ValueError: weights in fewer bits; the backbone that drew would not be the one that the update scores.
        """
        if weights != "same":
            raise ValueError(
                f"TokenActions with weights in {weights}: the update scores tokens by the full weights, and nothing "
                "corrects for the difference. Expected 'same', or latent or hybrid actions."
            )
        return self.replace(backbone=self.backbone.decoding())

    def advance(
        self, state: None, hidden: Float[Array, "N G 1 D"], rotary: Rotary, has_image: Array, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G V"], None]:
        """Logits of the next action from the state of the newest token."""
        return self._logits(hidden[:, :, 0]), state

    def act(
        self,
        keys: Key[Array, "N G"],
        hidden: Float[Array, "N G D"],
        logits: Float[Array, "N G V"],
        has_image: Bool[Array, " N"],
        sampling: Sampling,
        penalise: Penalty,
    ) -> Act:
        """A token is its own action; the penalty falls on what is drawn from."""
        _require_no_emission(self, sampling)
        drawn, spread = _draw(keys, penalise(logits), sampling, "vocab")
        return Act(drawn, spread, drawn.action)

    def _logits(self, hidden: Array) -> Array:
        return self.backbone.logits(self.backbone.norm(hidden))


class LatentActions(struct.PyTreeNode):
    """Actions are codes from the policy; the world model emits its most likely token (method.md section 4)."""

    agent: Agent
    reading: Reading = struct.field(pytree_node=False)
    world: TabulatedWorld | None = None  # in decoding

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self.agent.backbone

    @property
    def specs(self) -> "LatentActions":
        """Specs of all weights."""
        return self.replace(agent=self.agent.specs)

    def begin(
        self, hidden: Float[Array, "N P D"], prompts: Batch, samples: int, length: int
    ) -> tuple[Float[Array, "N K"], KVCache]:
        """Logits of the first action, and the policy's own cache."""
        x = self._input(hidden, prompts.has_image)
        logits, kv = self.agent.latent.policy.prefill(x, self.backbone.rotary(prompts.positions), prompts.mask)
        split = is_apart(self.agent.latent.policy.blocks)
        return logits, KVCache.create(kv, prompts.mask, samples, length, split)

    def decoding(self, weights: Storage = "same") -> "LatentActions":
        """The same space with weights laid out for decoding; `begin` is not to be called on it.

        `weights`: how decode steps hold the matrices of the backbone's blocks and of its head. It changes no
        log-probability that an update recomputes: codes are drawn by projector and policy, which stay as they are, from
        the backbone's states, and the update reads those very states, of prompts and of tokens, from the rollout. So
        prompts may be read with the full weights and tokens with others. The head only says which token follows.
        """
        return self._decoding(self.backbone.decoding(weights, weights))

    def _decoding(self, backbone: Backbone) -> "LatentActions":
        latent = self.agent.latent
        world = latent.world.tabulated(latent.codebook.astype(self.backbone.config.dtype))
        apart = latent.replace(policy=latent.policy.decoding())
        return self.replace(agent=self.agent.replace(backbone=backbone, latent=apart), world=world)

    def advance(
        self, state: KVCache, hidden: Float[Array, "N G 1 D"], rotary: Rotary, has_image: Array, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G K"], KVCache]:
        """Logits of the next action from the state of the newest token."""
        x = scattered(self._input(gathered(hidden), has_image))
        return self.agent.latent.policy.decode(state, x, rotary, step)

    def act(
        self,
        keys: Key[Array, "N G"],
        hidden: Float[Array, "N G D"],
        logits: Float[Array, "N G K"],
        has_image: Bool[Array, " N"],
        sampling: Sampling,
        penalise: Penalty,
    ) -> Act:
        """A code, and the most likely token under it; the penalty falls on the token."""
        _require_no_emission(self, sampling)
        return self._most_likely(keys, hidden, logits, has_image, sampling, penalise)

    def _most_likely(
        self, keys: Array, hidden: Array, logits: Array, has_image: Array, sampling: Sampling, penalise: Penalty
    ) -> Act:
        drawn, spread = _draw(keys, logits, sampling, "codes")
        token_logits = penalise(self.next_token_logits(hidden, drawn.action, has_image))
        token, best = largest(token_logits)
        # The code's log-probability knows nothing of these logits: a NaN of theirs must show in it too.
        drawn = drawn.replace(logp=jnp.where(jnp.isnan(best), jnp.nan, drawn.logp))
        return Act(drawn, spread, token)

    def next_token_logits(
        self, hidden: Float[Array, "N *G D"], action: Int[Array, "N *G"], has_image: Bool[Array, " N"]
    ) -> Float[Array, "N *G V"]:
        """The world model's next-token distribution for pre-norm states under codes."""
        if hidden.ndim == 3:
            hidden, action = gathered(hidden), gathered(action)
        x = self._input(hidden, has_image)
        if self.world is None:
            return self.backbone.logits(self.agent.read(x, self.agent.latent.look_up(action), self.reading))
        merged, block = self.world(x, action)
        return self.backbone.logits(readout(self.reading.readout, x, merged, block, self.backbone.norm))

    def _input(self, hidden: Array, has_image: Array) -> Array:
        return self.agent.action_input(self.backbone.norm(hidden), has_image, self.reading)


class HybridActions(LatentActions):
    """Actions are codes from the policy, and the token is drawn from the world model under the code.

    The log-probability of a step is log pi(code) + log p(token | e, code), the second at the temperature
    `SamplingConfig.emission` and with the penalty; where that is 0 it is `LatentActions`, whose token adds nothing.
    """

    def decoding(self, weights: Storage = "same") -> "LatentActions":
        """As of latent actions, but the head is never held in fewer bits: the update scores tokens by it, too."""
        return self._decoding(self.backbone.decoding(weights))

    def act(
        self,
        keys: Key[Array, "N G"],
        hidden: Float[Array, "N G D"],
        logits: Float[Array, "N G K"],
        has_image: Bool[Array, " N"],
        sampling: Sampling,
        penalise: Penalty,
    ) -> Act:
        """A code and a token, with the entropy of the code plus that of the token under it."""
        if sampling.emission == 0:
            return self._most_likely(keys, hidden, logits, has_image, sampling, penalise)
        drawn, spread = _draw(keys, logits, sampling, "codes")
        token_logits = penalise(self.next_token_logits(hidden, drawn.action, has_image))
        emission = SamplingConfig(temperature=sampling.emission)
        emitted, emitted_spread = _draw(emission_keys(keys), token_logits, emission, "vocab")
        return Act(drawn.replace(logp=drawn.logp + emitted.logp), spread + emitted_spread, emitted.action)


def _require_no_emission(space: ActionSpace, sampling: Sampling) -> None:
    if sampling.emission:
        raise ValueError(
            f"{type(space).__name__} with an emission temperature of {sampling.emission}: only the hybrid space draws "
            "the token under a code. Take a SamplingConfig, or HybridActions."
        )


def shared_prompt(x: Array, samples: int) -> Array:
    """[N, ..] repeated for the G samples of each prompt: [N, G, ..]."""
    x = jnp.broadcast_to(x[:, None], (x.shape[0], samples, *x.shape[1:]))
    # Not to be taken from the vocabulary's shards where samples lie on their axes too.
    return constrain(x, "prompts", "gathered" if wide_axes() else "samples", *(ANY,) * (x.ndim - 2))


def next_positions(prompts: Batch, offset: jax.Array, samples: int) -> Int[Array, "N G 3 1"]:
    """M-RoPE positions of completion token `offset`: all three streams go on after the prompt's largest position."""
    return token_positions(first_position(prompts) + offset, samples)


def first_position(prompts: Batch) -> Int[Array, " N"]:
    """M-RoPE position of each prompt's first completion token."""
    return jnp.max(jnp.where(prompts.mask[:, None, :], prompts.positions, 0), axis=(1, 2)) + 1


def token_positions(position: Int[Array, " N"], samples: int) -> Int[Array, "N G 3 1"]:
    """M-RoPE positions of a completion token of each prompt's samples."""
    return jnp.broadcast_to(position[:, None, None, None], (position.shape[0], samples, 3, 1)).astype(jnp.int32)
