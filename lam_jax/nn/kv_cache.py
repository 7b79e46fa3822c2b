"""Two-part KV cache: the prompt's keys and values once per prompt, an own suffix per sample.

Legend: Y layers, N prompts, G samples, P prompt length, T completion length, K kv heads, D head dimension.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lam_jax.nn import attention as attn
from lam_jax.nn.axes import constrain, constrain_samples
from lam_jax.nn.block import DecoderBlock, KeyValue, Pending
from lam_jax.nn.layers import packed
from lam_jax.nn.layout import layout
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import Layers, depth, fold_layers, is_apart, split_layers
from lam_jax.nn.stored import Storage, with_stored


class KVCache(struct.PyTreeNode):
    """Keys and values of one stack of blocks during decoding.

    All lie as the products with queries and weights read them, so that no step transposes them; the layers are apart
    where their weights are (`stack.split_layers`), so that no step copies them either. For a fused attention
    (`Layout.decode_layer`) keys lie as values do.
    """

    prompt_key: Layers  # [Y, N, K, D, P], or a tuple of Y
    prompt_value: Layers  # [Y, N, K, P, D], or a tuple of Y
    prompt_mask: Array  # bool [N, P]
    key: Layers  # [Y, N, G, K, D, T], or a tuple of Y; joined [N * G * K, D, T]
    value: Layers  # [Y, N, G, K, T, D], or a tuple of Y; joined [N * G * K, T, D]
    fused: bool = struct.field(pytree_node=False, default=False)
    # int32 [N], or None. Where prompts begin at different steps the suffix is a ring that all write at the same place
    # of: the tokens that each prompt's samples have in it. What older samples left beside them is not seen.
    age: Array | None = None

    @classmethod
    def create(cls, prompt: KeyValue, prompt_mask: Array, samples: int, length: int, split: bool) -> "KVCache":
        """A cache with the prompt filled in and room for `length` tokens of `samples` continuations.

        Args:
            prompt: keys and values of the prompt [Y, N, P, K, D], or tuples of Y.
            prompt_mask: bool [N, P].
            samples: G.
            length: T.
            split: for a stack whose layers are apart, see `decoding_layers`.
        """
        like = jax.tree.leaves(prompt[0])[0]
        prompts, _, kv_heads, dim = like.shape[-4:]
        if layout().decode_layer is not None and _fits(dim):
            return cls._fused(prompt, prompt_mask, samples, length, split)
        lead = (depth(prompt[0]), prompts, samples, kv_heads)
        empty = (jnp.zeros((*lead, *shape), like.dtype) for shape in ((dim, length), (length, dim)))
        suffix = (constrain(x, "layers", "prompts", "samples", "kv_heads", None, None) for x in empty)
        parts = (jax.tree.map(_columns, prompt[0]), jax.tree.map(_rows, prompt[1]), *suffix)
        prompt_key, prompt_value, key, value = map(_apart, parts) if split else parts
        if split and layout().joined:
            # As the product sees them: where it has to reshape what was written, XLA's CPU backend copies the cache.
            key, value = (tuple(x.reshape(-1, *x.shape[-2:]) for x in layers) for layers in (key, value))
        return cls(prompt_key, prompt_value, prompt_mask, key, value)

    @classmethod
    def _fused(cls, prompt: KeyValue, prompt_mask: Array, samples: int, length: int, split: bool) -> "KVCache":
        """As `create`: prompt keys and values [Y, N, K, P, D], own ones [Y, N * G * K, T, D]."""
        like = jax.tree.leaves(prompt[0])[0]
        prompts, _, kv_heads, dim = like.shape[-4:]
        empty = jnp.zeros((depth(prompt[0]), prompts * samples * kv_heads, length, dim), like.dtype)
        parts = (*(jax.tree.map(lambda x: jnp.swapaxes(x, -3, -2), x) for x in prompt), empty, empty)
        prompt_key, prompt_value, key, value = map(_apart, parts) if split else parts
        return cls(prompt_key, prompt_value, prompt_mask, key, value, fused=True)

    def as_ring(self) -> "KVCache":
        """The same, its suffix a ring in which nothing was written."""
        return self.replace(age=jnp.zeros(self.prompt_mask.shape[0], jnp.int32))

    def with_prompt(self, row: Int[Array, ""], other: "KVCache", of: Int[Array, ""]) -> "KVCache":
        """A ring with another prompt in the place of prompt `row`, whose samples begin anew.

        Args:
            row: of the N prompts; each with one sample.
            other: a cache of prompts of one sample each, no longer than P. Nothing of what was in the row stays, not
                even where it is masked: nothing times NaN is NaN.
            of: which of the other's prompts.
        """
        put, take = jax.lax.dynamic_update_slice_in_dim, jax.lax.dynamic_slice_in_dim

        def prompt(into: Array, new: Array, axis: int) -> Array:
            new = take(new, of, 1, new.ndim - 4)
            before = [(0, 0)] * new.ndim
            before[axis] = (into.shape[axis] - new.shape[axis], 0)  # prompts are padded on the left
            return put(into, jnp.pad(new, before), row, into.ndim - 4)

        def emptied(suffix: Array, like: Array) -> Array:
            heads = like.shape[-3]
            axis, count = (0, heads) if suffix.ndim == 3 else (suffix.ndim - 5, 1)  # joined or not
            shape = (*suffix.shape[:axis], count, *suffix.shape[axis + 1 :])
            return put(suffix, jnp.zeros(shape, suffix.dtype), row * count, axis)

        missing = self.prompt_mask.shape[-1] - other.prompt_mask.shape[-1]
        mask = jnp.pad(take(other.prompt_mask, of, 1, 0), ((0, 0), (missing, 0)))
        assert self.age is not None
        return self.replace(
            prompt_key=jax.tree.map(lambda x, y: prompt(x, y, y.ndim - 1), self.prompt_key, other.prompt_key),
            prompt_value=jax.tree.map(lambda x, y: prompt(x, y, y.ndim - 2), self.prompt_value, other.prompt_value),
            prompt_mask=put(self.prompt_mask, mask, row, 0),
            key=jax.tree.map(emptied, self.key, self.prompt_key),
            value=jax.tree.map(emptied, self.value, self.prompt_value),
            age=put(self.age, jnp.zeros(1, jnp.int32), row, 0),
        )

    @property
    def length(self) -> int:
        """T, room for a continuation."""
        return jax.tree.leaves(self.value)[0].shape[-2]


def _columns(x: Float[Array, "*Y N P K D"]) -> Float[Array, "*Y N K D P"]:
    return _pinned(jnp.moveaxis(x, -3, -1))


def _rows(x: Float[Array, "*Y N P K D"]) -> Float[Array, "*Y N K P D"]:
    return _pinned(jnp.swapaxes(x, -3, -2))


def _pinned(x: Float[Array, "*Y N K _ _"]) -> Float[Array, "*Y N K _ _"]:
    return constrain(x, *("layers",) * (x.ndim - 4), "prompts", "kv_heads", None, None)


def _apart(layers: Layers) -> tuple[Any, ...]:
    return layers if isinstance(layers, tuple) else split_layers(layers)


def _fits(dim: int) -> bool:
    """Whether a fused attention takes heads of this size: powers of two, as wide as a warp at least."""
    return dim >= 32 and not dim & (dim - 1)


def decoding_layers(blocks: Layers, storage: Storage = "same") -> Layers:
    """Blocks laid out for decode steps: where they are apart or the layout takes them apart, their maps are packed.

    `storage` is how their kernels are held.
    """
    if not is_apart(blocks):
        return with_stored(blocks, storage)
    layers = _apart(blocks)
    if layout().joined:  # small products cost more to start than to read: one in the place of three
        layers = tuple(layer.join() for layer in layers)
    return tuple(packed(with_stored(layer, storage)) for layer in layers)


def append(key: Array, value: Array, k: Array, v: Array, step: Int[Array, ""]) -> tuple[Array, Array]:
    """A layer's suffix with the keys and values [N, G, 1, K, D] of token `step` written into it."""
    new_key = jnp.moveaxis(k, 2, -1).reshape(*key.shape[:-1], 1)
    new_value = jnp.moveaxis(v, 2, 3).reshape(*value.shape[:-2], 1, value.shape[-1])
    key = jax.lax.dynamic_update_slice_in_dim(key, new_key, step, axis=key.ndim - 1)
    return key, jax.lax.dynamic_update_slice_in_dim(value, new_value, step, axis=value.ndim - 2)


def decode(
    blocks: Layers, cache: KVCache, x: Float[Array, "N G 1 D"], rotary: Rotary, step: Int[Array, ""]
) -> tuple[Float[Array, "N G 1 D"], KVCache]:
    """One token for every sample. `step` counts the tokens already in the suffix; all samples are at the same step.

    Of a ring (`KVCache.age`) it is the place that is written, and what may be seen is as old as the sample.
    """
    caches = (cache.prompt_key, cache.prompt_value, cache.key, cache.value)
    fused = layout().decode_layer
    if cache.fused and fused is not None:
        if cache.age is not None:
            raise ValueError("Layout.decode_layer knows no ring: take a layout without it where prompts join later.")
        return _decode_fused(fused, blocks, cache, x, rotary, step)

    places = jnp.arange(cache.length)
    if cache.age is None:
        seen = (places <= step)[None, None, None, :]
    else:
        seen = (((step - places) % cache.length)[None, :] <= cache.age[:, None])[:, None, None, :]
    keep = jnp.broadcast_to(seen, (*x.shape[:3], cache.length))

    def layer(x: Array, block: DecoderBlock, prompt_key: Array, prompt_value: Array, key: Array, value: Array):
        written = {}

        def attend(q, k, v):
            written["key"], written["value"] = append(key, value, k, v, step)
            shared = attn.cached_shared_part(q, prompt_key, prompt_value, cache.prompt_mask)
            own = attn.cached_part(q, written["key"], written["value"], keep, k.shape[-2])
            return attn.finish(attn.merge(shared, own), q.dtype)

        x, _ = block(x, rotary, attend)
        key, value = written["key"], written["value"]
        if not layout().joined:
            key, value = (constrain_samples(y, "kv_heads", None, None) for y in (key, value))
        return constrain_samples(x), (key, value)

    # Stacked layers are scanned: unrolled, stacking the caches again would copy them at every token.
    x, (key, value) = fold_layers(layer, x, blocks, *caches, frozen=True)
    return x, cache.replace(key=key, value=value, age=None if cache.age is None else cache.age + 1)


def _decode_fused(
    fused: Any, blocks: Layers, cache: KVCache, x: Array, rotary: Rotary, step: Array
) -> tuple[Array, KVCache]:
    """As `decode`. A layer leaves its last product for the next one to add, but in scans, whose state is one kind."""

    def layer(pending: Pending, block: DecoderBlock, prompt_key: Array, prompt_value: Array, key: Array, value: Array):
        pending, caches = fused(block, pending, rotary, prompt_key, prompt_value, cache.prompt_mask, key, value, step)
        return pending if isinstance(blocks, tuple) else (fused.total(pending), None), caches

    caches = (cache.prompt_key, cache.prompt_value, cache.key, cache.value)
    pending, (key, value) = fold_layers(layer, (x, None), blocks, *caches, frozen=True)
    return fused.total(pending), cache.replace(key=key, value=value)
