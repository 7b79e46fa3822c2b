"""The two causal networks that name codes: inverse dynamics (from the next state) and policy (from the past alone).

Legend: B rows, L length, D width, K codes, N prompts, G samples, P prompt length, T completion length.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lam_jax.models.config import TextSizes
from lam_jax.nn import block, kv_cache
from lam_jax.nn.block import DecoderBlock, KeyValue
from lam_jax.nn.kv_cache import KVCache, decoding_layers
from lam_jax.nn.layers import Linear, Map, RMSNorm, packed
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import Layers, Remat


class CodeModel(struct.PyTreeNode):
    """Decoder blocks of the backbone's kind, RMSNorm, Linear D -> K."""

    blocks: Layers  # of DecoderBlock
    norm: RMSNorm
    head: Map

    @classmethod
    def spec(cls, text: TextSizes, layers: int, codes: int) -> "CodeModel":
        """Specs for `layers` blocks and K=codes."""
        return cls(
            blocks=DecoderBlock.stacked(layers, **text.block_sizes),
            norm=RMSNorm.spec(text.width, text.norm_epsilon),
            head=Linear.spec(text.width, codes, ("embed", "codes")),
        )

    def _logits(self, x: Array) -> Array:
        return self.head(self.norm(x)).astype(jnp.float32)

    def __call__(
        self, states: Float[Array, "B L D"], rotary: Rotary, mask: Bool[Array, "B L"], remat: Remat = False
    ) -> Float[Array, "B L K"]:
        """float32 code logits at every position, from the positions up to it."""
        x = block.run(self.blocks, states, rotary, mask, remat=remat)
        return self._logits(x)

    def shared(
        self,
        prompt: Float[Array, "N P D"],
        sample: Float[Array, "N G T D"],
        rotaries: tuple[Rotary, Rotary],
        masks: tuple[Bool[Array, "N P"], Bool[Array, "N G T"]],
        remat: Remat = False,
    ) -> tuple[Float[Array, "N K"], Float[Array, "N G T K"]]:
        """Logits at the prompt's last position and at every completion position, the prompt computed once."""
        prompt, sample = block.run_shared(self.blocks, prompt, sample, *rotaries, *masks, remat=remat)
        return self._logits(prompt), self._logits(sample)

    def prefill(
        self, states: Float[Array, "N P D"], rotary: Rotary, mask: Bool[Array, "N P"]
    ) -> tuple[Float[Array, "N K"], KeyValue]:
        """Logits at the prompt's last position, and the prompt's keys and values."""
        x, kv = block.prefill(self.blocks, states, rotary, mask)
        return self._logits(x[:, -1]), kv

    def decoding(self) -> "CodeModel":
        """The same model, laid out for decode steps."""
        return self.replace(blocks=decoding_layers(self.blocks), head=packed(self.head))

    def decode(
        self, cache: KVCache, states: Float[Array, "N G 1 D"], rotary: Rotary, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G K"], KVCache]:
        """Logits for one more position of every sample."""
        x, cache = kv_cache.decode(self.blocks, cache, states, rotary, step)
        return self._logits(x[:, :, 0]), cache


def inverse_shift(logits: Float[Array, "B L K"]) -> Float[Array, "B L K"]:
    """Aligns inverse dynamics with actions: a_t's logit is the output at t+1; the last position keeps its own."""
    return jnp.concatenate([logits[:, 1:], logits[:, -1:]], axis=1)


def straight_through(
    logits: Float[Array, "B L K"], noise: Float[Array, "B L K"] | None, tau: float
) -> Float[Array, "B L K"]:
    """one-hot(argmax y) forward, gradient through y = softmax((logits + g) / tau) (method.md section 2)."""
    soft = jax.nn.softmax((logits if noise is None else logits + noise) / tau, axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), logits.shape[-1], dtype=soft.dtype)
    return soft + jax.lax.stop_gradient(hard - soft)
