"""A decoder block's decode step on an NVIDIA GPU: nine kernels with XLA's products, eight with ours for gate and up.

With XLA's sums and norms around the attention it would be twelve (3B compiled for an H100 by jax 0.11.2).
Products leave partial sums, which the kernel that reads them adds up: the attention those of query, key and value,
`add_norm` those of the output and of the MLP. So what goes from layer to layer is the residual and the last product's
parts (`Pending`); the next layer's norm completes them.
Legend: N prompts, G samples, R = N G rows, D in, O out, S parts, P prompt length, T room, K kv heads.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lam_jax.gpu.add_norm import add_norm
from lam_jax.gpu.decode_attention import Tiles as AttentionTiles
from lam_jax.gpu.decode_attention import decode_attention
from lam_jax.gpu.panels import PanelGatedMLP, PanelLinear
from lam_jax.gpu.parts import Parts
from lam_jax.gpu.row_linear import gated, row_parts, tiles_for
from lam_jax.gpu.tiles import MOST_ROWS, Tiles, choose_tiles
from lam_jax.nn.block import DecoderBlock, KeyValue, Pending
from lam_jax.nn.layers import GatedMLP, Map, RMSNorm
from lam_jax.nn.rope import Rotary

# Compiled functions of their own, or every layer would be traced anew.
_add_norm = jax.jit(add_norm, static_argnames=("epsilon", "early", "interpret"))
_gated = jax.jit(gated, static_argnames=("tiles", "interpret"))
_row_parts = jax.jit(row_parts, static_argnames=("tiles", "interpret"))

PARTED_ROWS = 64  # of more rows the parts outweigh a kernel more that adds them up
Chosen = Callable[..., Tiles]  # as `lam_jax.gpu.tiles.choose_tiles`
Way = int | Tiles | Chosen | None


@dataclasses.dataclass(frozen=True)
class DecodeLayer:
    """How a layer is computed; a value for `Layout.decode_layer`.

    A product is: None: the block's own map, whose parts XLA adds up in one more kernel where it makes any; a number:
    XLA's product in so many equal parts at most; tiles, or what chooses them: our kernel's. More rows than
    `PARTED_ROWS` and `MOST_ROWS` are left to the map. What is XLA's but for the attention is
    `DecodeLayer(None, None, None, None, add_norm=False)`.

    Attributes:
        qkv: the product for query, key and value.
        output: that of the attention's output.
        gated: both products before the MLP's nonlinearity, and that; XLA's without tiles.
        down: the product after it.
        attention: how the attention's kernels are cut; None: what suits the sizes.
        add_norm: whether residual sum and norm are one kernel; else XLA's.
        early: each of our kernels lets the next one start at once, see `lam_jax.gpu.early`.
        interpret: on any device, slowly.
    """

    qkv: Way = choose_tiles
    output: Way = choose_tiles
    gated: Tiles | Chosen | None = None
    down: Way = choose_tiles
    attention: AttentionTiles | None = None
    add_norm: bool = True
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
            tiles = self.attention or AttentionTiles.suited(prompts, samples, prompt_key.shape[1])
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
        most = PARTED_ROWS if isinstance(way, int) else MOST_ROWS
        if way is None or rows.shape[0] > most:
            return Parts(linear(x)[None])
        if isinstance(linear, PanelLinear):
            kernel, way = linear.panels.astype(x.dtype), choose_tiles if isinstance(way, int) else way
        else:
            kernel = linear.kernel.astype(x.dtype)
        if isinstance(way, int):
            sums = parts_by_xla(rows, kernel, way)
        else:
            sums = _row_parts(rows, kernel, tiles=self._tiles(way, rows, kernel), interpret=self.interpret)
        return Parts(sums.reshape(-1, *x.shape[:-1], kernel.size // rows.shape[1]), linear.bias)

    def hidden(self, mlp: Map, x: Float[Array, "N G 1 D"]) -> Float[Array, "N G 1 O"]:
        """What an MLP's last map is applied to."""
        rows = x.reshape(-1, x.shape[-1])
        if isinstance(mlp, PanelGatedMLP) and rows.shape[0] <= MOST_ROWS:
            gate, up, way = mlp.gate.astype(x.dtype), mlp.up.astype(x.dtype), self.gated or choose_tiles
        else:
            plain = not isinstance(mlp, GatedMLP) or mlp.gate.bias is not None or mlp.up.bias is not None
            if self.gated is None or plain or rows.shape[0] > MOST_ROWS:
                return mlp.hidden(x)
            (gate, up), way = (part.kernel.astype(x.dtype) for part in (mlp.gate, mlp.up)), self.gated
        y = _gated(rows, gate, up, tiles=self._tiles(way, rows, gate, kernels=2), interpret=self.interpret)
        return y.reshape(*x.shape[:-1], -1)

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

    def _tiles(self, way: Any, rows: Array, kernel: Array, kernels: int = 1) -> Tiles:
        tiles = way if isinstance(way, Tiles) else tiles_for(rows, kernel, kernels, way)
        return dataclasses.replace(tiles, early=tiles.early or self.early)


def parts_by_xla(x: Float[Array, "R D"], kernel: Float[Array, "D O"], parts: int) -> Float[Array, "S R O"]:
    """`x @ kernel` in products of a part of D each, which XLA computes in one kernel; at most `parts`, all equal."""
    rows, inputs = x.shape
    parts = math.gcd(inputs, parts)
    kernel = kernel.reshape(parts, inputs // parts, -1)
    return jnp.einsum("rsd,sdo->sro", x.reshape(rows, parts, -1), kernel, preferred_element_type=jnp.float32)
