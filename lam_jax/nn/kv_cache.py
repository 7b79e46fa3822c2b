"""Two-part KV cache: the prompt's keys and values once per prompt, an own suffix per sample.

Legend: Y layers, N prompts, G samples, P prompt length, T completion length, K kv heads, D head dimension.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lam_jax.nn import attention as attn
from lam_jax.nn.axes import constrain, constrain_samples
from lam_jax.nn.block import DecoderBlock, KeyValue
from lam_jax.nn.rope import Rotary


class KVCache(struct.PyTreeNode):
    """Keys and values of one stack of blocks during decoding."""

    prompt_key: Array  # [Y, N, P, K, D]
    prompt_value: Array
    prompt_mask: Array  # bool [N, P]
    key: Array  # [Y, N, G, T, K, D]
    value: Array

    @classmethod
    def create(cls, prompt: KeyValue, prompt_mask: Array, samples: int, length: int) -> "KVCache":
        """A cache with the prompt filled in and room for `length` tokens of `samples` continuations."""
        layers, prompts, _, kv_heads, dim = prompt[0].shape
        empty = jnp.zeros((layers, prompts, samples, length, kv_heads, dim), prompt[0].dtype)
        empty = constrain(empty, "layers", "prompts", "samples", "length", "kv_heads", None)
        key, value = (constrain(x, "layers", "prompts", "length", "kv_heads", None) for x in prompt)
        return cls(key, value, prompt_mask, empty, empty)

    @property
    def prompt_size(self) -> int:
        """Length of the prompt part, padding included."""
        return self.prompt_key.shape[2]


def decode(
    blocks: DecoderBlock, cache: KVCache, x: Float[Array, "N G 1 D"], rotary: Rotary, step: Int[Array, ""]
) -> tuple[Float[Array, "N G 1 D"], KVCache]:
    """One token for every sample. `step` counts the tokens already in the suffix; all samples are at the same step."""
    seen = jnp.arange(cache.key.shape[3]) <= step
    keep = jnp.broadcast_to(seen[None, None, None, :], (*x.shape[:3], seen.shape[0]))

    def layer(x, inputs):
        block, prompt_key, prompt_value, key, value = inputs
        written = {}

        def attend(q, k, v):
            written["key"] = jax.lax.dynamic_update_slice_in_dim(key, k, step, axis=2)
            written["value"] = jax.lax.dynamic_update_slice_in_dim(value, v, step, axis=2)
            shared = attn.shared_part(q, prompt_key, prompt_value, cache.prompt_mask)
            own = attn.part(q, written["key"], written["value"], keep)
            return attn.finish(attn.merge(shared, own), q.dtype)

        x, _ = block(x, rotary, attend)
        key, value = (constrain_samples(written[name], "length", "kv_heads", None) for name in ("key", "value"))
        return constrain_samples(x), (key, value)

    # Not unrolled: stacking the caches again would copy them at every token.
    inputs = (blocks, cache.prompt_key, cache.prompt_value, cache.key, cache.value)
    x, (key, value) = jax.lax.scan(layer, x, inputs)
    return x, cache.replace(key=key, value=value)
