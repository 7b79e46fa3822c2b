"""A decoder block's decode step on an NVIDIA GPU in nine kernels, where XLA's own sums and norms make it twelve.

Query, key and value; two of the attention; its output; the residual's sum and norm; gate and up; their product with the
nonlinearity; down; sum and norm. Products leave partial sums, which the kernel that reads them adds up: the attention
those of query, key and value, `add_norm` those of the output and of the MLP. So what goes from layer to layer is the
residual and the last product's parts (`Pending`); the next layer's norm completes them.
On an H100 (3B, 32 rows, half the room written) a layer takes 88 us so and 93 with XLA's (`benchmarks.decode_layer`).
Legend: N prompts, G samples, R = N G rows, D in, O out, S parts, P prompt length, T room, K kv heads.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lam_jax.gpu.add_norm import add_norm
from lam_jax.gpu.decode_attention import Tiles as AttentionTiles
from lam_jax.gpu.decode_attention import decode_attention
from lam_jax.gpu.parts import Parts
from lam_jax.gpu.row_products import row_products
from lam_jax.gpu.tiles import MOST_ROWS, SHARED, Tiles, choose_tiles, within
from lam_jax.nn.block import DecoderBlock, KeyValue, Pending
from lam_jax.nn.layers import Map, RMSNorm
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stored import StoredLinear

# Compiled functions of their own, or every layer would be traced anew.
_add_norm = jax.jit(add_norm, static_argnames=("epsilon", "early", "interpret"))
_row_products = jax.jit(row_products, static_argnames=("tiles", "interpret"))

Chosen = Callable[..., Tiles]  # as `lam_jax.gpu.tiles.choose_tiles`
Way = Tiles | Chosen | None


@dataclasses.dataclass(frozen=True)
class DecodeLayer:
    """How a layer is computed; a value for `Layout.decode_layer`.

    A product is our kernel's, with tiles or what chooses them; None: the block's own map, as of more rows than
    `MOST_ROWS` and of a `StoredLinear`, whose parts, where it makes any, XLA adds up in one more kernel. What is XLA's
    but for the attention is
    `DecodeLayer(None, None, None, add_norm=False)`.

    Attributes:
        qkv: the product for query, key and value.
        output: that of the attention's output.
        down: that of the MLP's nonlinearity. Those before it are always XLA's, which are as fast as any of ours.
        attention: how the attention's kernels are cut; None: what suits the sizes.
        add_norm: whether residual sum and norm are one kernel; else XLA's.
        shared: bytes of shared memory that a program gets; other tiles than given ones keep to it.
        early: each of our kernels lets the next one start at once, see `lam_jax.gpu.early`.
        interpret: on any device, slowly.
    """

    qkv: Way = choose_tiles
    output: Way = choose_tiles
    down: Way = choose_tiles
    attention: AttentionTiles | None = None
    add_norm: bool = True
    shared: int = SHARED
    early: bool = False
    interpret: bool = False

    def __call__(
        self,
        block: DecoderBlock,
        pending: Pending,
        rotary: Rotary,
        prompt_key: Float[Array, "N K P D"],
        prompt_value: Float[Array, "N K P D"],
        prompt_mask: Bool[Array, "N P"],
        key: Float[Array, "NGK T D"],
        value: Float[Array, "NGK T D"],
        step: Int[Array, ""],
    ) -> tuple[Pending, KeyValue]:
        """What the next layer needs, and the caches with the new token; as `kv_cache.decode` says."""
        written = {}

        def attend(qkv: Parts) -> Array:
            prompts, samples = prompt_key.shape[0], key.shape[0] // prompt_key.shape[0] // prompt_key.shape[1]
            tiles = self.attention or self._attention_tiles(prompts, samples, prompt_key)
            y, *written["caches"] = decode_attention(
                qkv,
                rotary,
                prompt_key,
                prompt_value,
                prompt_mask,
                key,
                value,
                step,
                interpret=self.interpret,
                tiles=dataclasses.replace(tiles, early=self.early),
            )
            return y

        pending = block.fused(pending, self, attend)
        key, value = written["caches"]
        return pending, (key, value)

    def product(self, name: str, linear: Map, x: Float[Array, "N G 1 D"]) -> Parts:
        """`linear(x)` in parts [S, N, G, 1, O]; `name` is the attribute that says how."""
        rows, way = x.reshape(-1, x.shape[-1]), getattr(self, name)
        if way is None or rows.shape[0] > MOST_ROWS or isinstance(linear, StoredLinear):
            return Parts(linear(x)[None])
        kernel = linear.kernel.astype(x.dtype)
        if isinstance(way, Tiles):
            tiles = way
        else:
            size = x.dtype.itemsize
            tiles = within(way(rows.shape[0], *kernel.shape, size), rows.shape[0], size, self.shared)
        tiles = dataclasses.replace(tiles, early=tiles.early or self.early)
        sums = _row_products(rows, kernel, tiles=tiles, interpret=self.interpret)
        return Parts(sums.reshape(-1, *x.shape[:-1], kernel.shape[-1]), linear.bias)

    def head_norms(
        self, qkv: Parts, query_norm: RMSNorm, key_norm: RMSNorm, width: int, dtype: jax.typing.DTypeLike
    ) -> Parts:
        """Queries, keys and values side by side, each head of queries (the first `width`) and of keys normed."""
        y = qkv.whole(dtype)
        query, key, value = jnp.split(y, (width, (y.shape[-1] + width) // 2), axis=-1)

        def normed(norm: RMSNorm, x: Array) -> Array:
            return norm(x.reshape(*x.shape[:-1], -1, norm.scale.shape[-1])).reshape(x.shape)

        return Parts(jnp.concatenate([normed(query_norm, query), normed(key_norm, key), value], axis=-1)[None])

    def _attention_tiles(self, prompts: int, samples: int, prompt_key: Float[Array, "N K P D"]) -> AttentionTiles:
        kv_heads, dim = prompt_key.shape[1], prompt_key.shape[3]
        tiles = AttentionTiles.suited(prompts, samples, kv_heads)
        return tiles.within(tiles.rows, dim, prompt_key.dtype.itemsize, self.shared)

    def complete(self, pending: Pending, norm: RMSNorm) -> tuple[Float[Array, "N G 1 D"], Float[Array, "N G 1 D"]]:
        """The residual, and its norm."""
        x, parts = pending
        if parts is None or not self.add_norm:
            x = self.total(pending)
            return x, norm(x)
        flat = Parts(parts.sums.reshape(parts.sums.shape[0], -1, x.shape[-1]), parts.bias)
        done = _add_norm(
            x.reshape(-1, x.shape[-1]),
            flat,
            norm.scale,
            epsilon=norm.epsilon,
            early=self.early,
            interpret=self.interpret,
        )
        return done[0].reshape(x.shape), done[1].reshape(x.shape)

    def total(self, pending: Pending) -> Float[Array, "N G 1 D"]:
        """The residual alone."""
        x, parts = pending
        return x if parts is None else x + parts.whole(x.dtype)
