"""The decoder block that serves backbone, inverse dynamics and policy, and the ways to run a stack of them.

Legend: B batch, L length, N prompts, G samples of a prompt, P prompt length, T completion length, D width, K kv heads,
H heads.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from lam_jax.nn import attention as attn
from lam_jax.nn.axes import constrain_rows, constrain_samples
from lam_jax.nn.deepstack import DeepStack, layer_numbers
from lam_jax.nn.layers import GatedMLP, Linear, Map, RMSNorm, narrowed
from lam_jax.nn.layout import layout
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import Layers, Remat, fold_layers, is_unrolled, split_last
from lam_jax.nn.weight import Param, stack

KeyValue = tuple[Layers, Layers]  # of a block, or of each of several
Attend = Callable[[Array, Array, Array], Array]
# A residual, and the product that is yet to be added to it (`lam_jax.gpu.parts.Parts`) or None.
Pending = tuple[Array, Any]


class DecoderBlock(struct.PyTreeNode):
    """Pre-norm block of Qwen's decoders: `x += attention(norm(x))`, `x += mlp(norm(x))`.

    Qwen2.5's has biases on query, key and value, Qwen3's an RMSNorm of each head of queries and keys before they are
    rotated.
    """

    attention_norm: RMSNorm
    query: Map
    key: Map
    value: Map
    output: Map
    mlp_norm: RMSNorm
    mlp: GatedMLP
    head_dim: int = struct.field(pytree_node=False)
    joined: Map = None  # query, key and value in one map, in their place; see `join`
    query_norm: Param = None  # RMSNorm of each head, or None; as loose as weights, since jax puts its own in its place
    key_norm: Param = None

    @classmethod
    def spec(
        cls,
        width: int,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        epsilon: float,
        bias: bool = True,
        head_norms: bool = False,
    ) -> "DecoderBlock":
        """Specs of one block; `stacked` makes a stack of them.

        Args:
            width: of the states.
            hidden: of the feed-forward.
            heads: of queries.
            kv_heads: of keys and values.
            head_dim: of each; `heads * head_dim` need not be `width`.
            epsilon: of the norms.
            bias: on query, key and value.
            head_norms: of queries and keys.
        """
        return cls(
            attention_norm=RMSNorm.spec(width, epsilon),
            query=Linear.spec(width, heads * head_dim, ("embed", "heads"), bias, (None, heads)),
            key=Linear.spec(width, kv_heads * head_dim, ("embed", "kv_heads"), bias, (None, kv_heads)),
            value=Linear.spec(width, kv_heads * head_dim, ("embed", "kv_heads"), bias, (None, kv_heads)),
            output=Linear.spec(heads * head_dim, width, ("heads", "embed"), units=(heads, None)),
            mlp_norm=RMSNorm.spec(width, epsilon),
            mlp=GatedMLP.spec(width, hidden),
            head_dim=head_dim,
            query_norm=RMSNorm.spec(head_dim, epsilon) if head_norms else None,
            key_norm=RMSNorm.spec(head_dim, epsilon) if head_norms else None,
        )

    @classmethod
    def stacked(cls, layers: int, **sizes) -> "DecoderBlock":
        """Specs of `layers` blocks on a leading dimension."""
        return stack(cls.spec(**sizes), layers)

    def __call__(
        self, x: Float[Array, "*B T D"], rotary: Rotary, attend: Attend
    ) -> tuple[Float[Array, "*B T D"], KeyValue]:
        """Returns the block's output and this block's own keys and values [*B, T, K, head_dim] (keys rotated)."""
        h = self.attention_norm(x)
        q, k, v = (self._split(y) for y in self._projections(h))
        q, k = rotary(_normed(self.query_norm, q)), rotary(_normed(self.key_norm, k))
        return self._rest(x, attend(q, k, v)), (k, v)

    def fused(self, pending: Pending, kernels: Any, attend: Callable[[Any], Array]) -> Pending:
        """`__call__` with the sums, norms and products of `kernels`, see `lam_jax.gpu.decode_layer`.

        `attend` does everything between the first maps and the last. It is given queries, keys and values side by
        side, parts [S, *B, T, (H + 2 K) head_dim], not rotated: each on its own they would have to be copied out of the
        product.
        """
        joined = (self if self.joined is not None else self.join()).joined
        x, h = kernels.complete(pending, self.attention_norm)
        qkv = kernels.product("qkv", joined, h)
        if self.query_norm is not None:
            qkv = kernels.head_norms(qkv, self.query_norm, self.key_norm, self.output.inputs, h.dtype)
        y = attend(qkv)
        x, h = kernels.complete((x, kernels.product("output", self.output, y)), self.mlp_norm)
        return x, kernels.product("down", self.mlp.down, self.mlp.hidden(h))

    def _rest(self, x: Array, y: Array) -> Array:
        x = x + narrowed(self.output, y.reshape(*x.shape[:-1], -1), "heads")
        return x + self.mlp(self.mlp_norm(x))

    def key_value(self, x: Float[Array, "*B T D"], rotary: Rotary) -> KeyValue:
        """The keys and values that `__call__` returns, and nothing else."""
        h = self.attention_norm(x)
        return rotary(_normed(self.key_norm, self._split(self.key(h)))), self._split(self.value(h))

    def _projections(self, h: Array) -> tuple[Array, ...]:
        if self.joined is None:
            return self.query(h), self.key(h), self.value(h)
        y = self.joined(h)
        width = self.output.inputs
        middle = (y.shape[-1] + width) // 2
        return y[..., :width], y[..., width:middle], y[..., middle:]

    def join(self) -> "DecoderBlock":
        """The same block with query, key and value in one map."""
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), self.query, self.key, self.value)
        return self.replace(query=None, key=None, value=None, joined=joined)

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], -1, self.head_dim)


def _normed(norm: Param, heads: Float[Array, "*B T H D"]) -> Float[Array, "*B T H D"]:
    return heads if norm is None else norm(heads)


def run(
    blocks: Layers,
    x: Float[Array, "*B L D"],
    rotary: Rotary,
    mask: Bool[Array, "*B L"],
    *,
    remat: Remat = False,
    frozen: bool = False,
    deepstack: DeepStack | None = None,
) -> Float[Array, "*B L D"]:
    """Causal forward through a stack.

    Args:
        blocks: `DecoderBlock`s, stacked or a tuple.
        x: states before the first of them.
        rotary: of the positions.
        mask: real tokens.
        remat: what the backward pass recomputes.
        frozen: no gradient will be asked for.
        deepstack: what is added to the states after the first blocks.
    """
    keep = attn.causal(mask)

    def step(x, block, *layer):
        x, _ = block(x, rotary, lambda q, k, v: attn.attention(q, k, v, keep))
        return constrain_rows(_deepened(deepstack, x, layer)), None

    return fold_layers(step, x, blocks, *layer_numbers(deepstack, blocks), remat=remat, frozen=frozen)[0]


def _deepened(deepstack: DeepStack | None, x: Array, layer: tuple[Array, ...]) -> Array:
    return x if deepstack is None else deepstack(x, *layer)


def prefill(
    blocks: Layers,
    x: Float[Array, "*B L D"],
    rotary: Rotary,
    mask: Bool[Array, "*B L"],
    deepstack: DeepStack | None = None,
) -> tuple[Float[Array, "*B L D"], KeyValue]:
    """As `run` without gradients, and the keys and values [layers, *B, L, K, head_dim], or tuples of a layer's each."""
    keep = attn.causal(mask)

    def step(x, block, *layer):
        x, kv = block(x, rotary, lambda q, k, v: attn.attention(q, k, v, keep))
        key, value = (constrain_rows(y, "length", "kv_heads", None) for y in kv)
        return constrain_rows(_deepened(deepstack, x, layer)), (key, value)

    return fold_layers(step, x, blocks, *layer_numbers(deepstack, blocks), frozen=True)


def run_shared(
    blocks: Layers,
    prompt: Float[Array, "N P D"],
    sample: Float[Array, "N G T D"],
    prompt_rotary: Rotary,
    sample_rotary: Rotary,
    prompt_mask: Bool[Array, "N P"],
    sample_mask: Bool[Array, "N G T"],
    *,
    remat: Remat = False,
    deepstack: DeepStack | None = None,
) -> tuple[Float[Array, "N D"], Float[Array, "N G T D"]]:
    """Causal forward of G continuations of each prompt; the prompt part is computed once per prompt.

    Equal to running the G concatenated rows, at 1/G of the prompt's cost. Of a prompt its last position is returned.
    `deepstack` is that of the prompts; continuations hold no pictures.
    """
    numbers = layer_numbers(deepstack, blocks)
    prompt_keep, sample_keep = attn.causal(prompt_mask), attn.causal(sample_mask)

    def attend_prompt(q, k, v):
        return attn.attention(q, k, v, prompt_keep)

    def attend_sample(q, k, v, key, value):
        return attn.attention_over_shared(q, k, v, sample_keep, key, value, prompt_mask)

    def step(carry, block, *layer):
        prompt, sample = carry
        prompt, (key, value) = block(prompt, prompt_rotary, attend_prompt)
        sample, _ = block(sample, sample_rotary, lambda q, k, v: attend_sample(q, k, v, key, value))
        return (constrain_rows(_deepened(deepstack, prompt, layer)), constrain_samples(sample)), None

    def joined_step(x, block, *layer):
        def attend(q, k, v):
            (pq, sq), (pk, sk), (pv, sv) = (apart(y) for y in (q, k, v))
            return _join(attend_prompt(pq, pk, pv), attend_sample(sq, sk, sv, pk, pv))

        x = block(x, rotary, attend)[0]
        return x if deepstack is None else joined_deepened(deepstack, x, *layer), None

    def joined_deepened(deepstack: DeepStack, x: Array, layer: Array) -> Array:
        def add(x: Array) -> Array:
            own, rest = apart(x)
            return _join(deepstack.added(own, layer), rest)

        return deepstack.where_added(add, x, layer)

    def last_step(x, block, *layer):
        """Of a prompt's other positions the last layer needs keys and values only."""
        key, value = block.key_value(apart(x)[0], prompt_rotary)

        def attend(q, k, v):
            (pq, sq), (_, sk), (_, sv) = (apart(y, 1) for y in (q, k, v))
            return _join(attn.attention(pq, key, value, prompt_mask[:, None]), attend_sample(sq, sk, sv, key, value))

        x = block(ends(x), jax.tree.map(ends, rotary), attend)[0]
        if deepstack is not None:
            own, rest = apart(x, 1)
            x = _join(deepstack.last(own, *layer), rest)
        return x, None

    def apart(x: Array, length: int = prompt.shape[1]) -> tuple[Array, Array]:
        end = prompt.shape[0] * length
        return x[:end].reshape(-1, length, *x.shape[1:]), x[end:].reshape(*sample.shape[:3], *x.shape[1:])

    def ends(x: Array) -> Array:
        first, rest = apart(x)
        return _join(first[:, -1:], rest)

    if not layout().joined:
        prompt, sample = fold_layers(step, (prompt, sample), blocks, *numbers, remat=remat)[0]
        return prompt[:, -1], sample
    # Prompts and samples in one product with each weight, forward and backward.
    rotary = jax.tree.map(_join, prompt_rotary, sample_rotary)
    x = _join(prompt, sample)
    if is_unrolled(blocks):  # a scan has no last layer of its own
        lower, last = split_last(blocks)
        x, _ = fold_layers(joined_step, x, lower, *(n[:-1] for n in numbers), remat=remat)
        x, _ = fold_layers(last_step, x, (last,), *((n[-1],) for n in numbers), remat=remat)
        prompt, sample = apart(x, 1)
    else:
        prompt, sample = apart(fold_layers(joined_step, x, blocks, *numbers, remat=remat)[0])
    return prompt[:, -1], sample


def _join(prompt: Float[Array, "N P *X"], sample: Float[Array, "N G T *X"]) -> Float[Array, "R *X"]:
    """All positions of all prompts, then those of all samples."""
    return jnp.concatenate([prompt.reshape(-1, *prompt.shape[2:]), sample.reshape(-1, *sample.shape[3:])])
