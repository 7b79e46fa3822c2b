"""An action space with a bias on the actions of each sample: forced, forbidden or favoured codes or tokens.

Legend: N prompts, G samples, P prompt length, D width, A actions (K codes or V tokens).
"""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from lam_jax.models.inputs import Batch
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.nn.rope import Rotary
from lam_jax.nn.weight import Param, Weight
from lam_jax.rollout.actions import Act, ActionSpace, Penalty
from lam_jax.rollout.sampling import SamplingConfig

NEVER = -1e9  # of a code that is not to be taken: finite, so that no NaN can arise


class BiasedActions(struct.PyTreeNode):
    """Actions whose logits get `bias` [G, A] added, sample by sample; a change of it compiles nothing."""

    actions: ActionSpace
    bias: Param

    @property
    def backbone(self) -> QwenVL:
        """What reads the tokens."""
        return self.actions.backbone

    @property
    def specs(self) -> "BiasedActions":
        """Specs of all weights."""
        return self.replace(actions=self.actions.specs, bias=Weight(self.bias.shape, (None, None)))

    def begin(
        self, hidden: Float[Array, "N P D"], prompts: Batch, samples: int, length: int
    ) -> tuple[Float[Array, "N A"], Any]:
        """As without the bias."""
        return self.actions.begin(hidden, prompts, samples, length)

    def decoding(self) -> "BiasedActions":
        """The same space with weights laid out for decoding; `begin` is not to be called on it."""
        return self.replace(actions=self.actions.decoding())

    def advance(
        self, state: Any, hidden: Float[Array, "N G 1 D"], rotary: Rotary, has_image: Array, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G A"], Any]:
        """As without the bias."""
        return self.actions.advance(state, hidden, rotary, has_image, step)

    def act(
        self,
        keys: Key[Array, "N G"],
        hidden: Float[Array, "N G D"],
        logits: Float[Array, "N G A"],
        has_image: Bool[Array, " N"],
        sampling: SamplingConfig,
        penalise: Penalty,
    ) -> Act:
        """An action of the biased logits, and its token."""
        biased = logits + self.bias.astype(logits.dtype)[None]
        return self.actions.act(keys, hidden, biased, has_image, sampling, penalise)


def forced(codes: Int[Any, " G"], count: int) -> Float[Array, "G K"]:
    """The bias that leaves each sample no code but its own."""
    return jnp.where(jnp.asarray(codes)[:, None] == jnp.arange(count)[None], 0.0, NEVER)
