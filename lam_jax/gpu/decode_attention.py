"""Attention of a decode step on an NVIDIA GPU in two kernels, from the projections' product to the finished sum.

What `kv_cache.decode` else does in 12 kernels a layer (Qwen2.5-VL 3B compiled for an H100 by jax 0.11.2): rotary,
append, attention over the prompt's and the own keys, merge. Flash decoding: the first kernel splits the positions over
programs, of which each leaves a softmax sum that is not normalised; the second adds these up with the new token's own
score and appends its key and value. So the caches are only read by the one and only written by the other, in place.

Keys lie as values do, [.., T, D]: a tile of positions is one piece of memory, and an append writes one row of 2 D bytes
where [.., D, T] would touch D lines. The plain path (`lam_jax.nn.attention`) is the reference.
Legend: N prompts, G samples, H heads, K kv heads, R = H / K, D head dimension, P prompt length, T room.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

from lam_jax.gpu.parts import Parts
from lam_jax.nn.rope import Rotary


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How the kernels cut their work. Blocks, rows and warps are powers of two.

    Attributes:
        prompt_block: positions of a prompt that a program reads at a time.
        prompt_splits: programs that share a prompt's positions.
        own_block: positions of a sample's own cache that a program reads at a time.
        own_splits: programs that share the positions written so far, so that all have work at any step.
        rows: most queries of a prompt (samples times R) in one program.
        num_warps: of the first kernel.
        num_stages: loads in flight in its loops.
        merge_warps: of the second kernel.
        early: each kernel lets the next one on the stream start at once, see `lam_jax.gpu.early`.
    """

    prompt_block: int = 64
    prompt_splits: int = 8
    own_block: int = 64
    own_splits: int = 4
    rows: int = 64
    num_warps: int = 4
    num_stages: int = 3
    merge_warps: int = 2
    early: bool = False

    @classmethod
    def suited(cls, prompts: int, samples: int, kv_heads: int) -> "Tiles":
        """The fastest measured on an H100 and an H200, at 3B with 8 samples of each prompt (K = 2).

        Of 4 and of 32 prompts with half the room written, alone: 18.3 and 88 us a layer, where splits that give two or
        three programs for every multiprocessor took 21 and 97. With fewer pairs of sample and kv head the own positions
        are split further, which was not measured.
        """
        own = 128 // (prompts * samples * kv_heads)
        return cls(own_splits=min(max(own, 2), 16), prompt_splits=4, num_stages=2)

    def within(self, rows: int, dim: int, itemsize: int, shared: int) -> "Tiles":
        """With blocks no larger than a card has shared memory for, in bytes of a program; 16 positions at least."""

        def held(block: int) -> int:  # queries, weights, and the keys and values on their way
            loads = max(1, self.num_stages - 1)
            return itemsize * (rows * dim + block * (rows + 2 * loads * dim))

        def fitting(block: int) -> int:
            while block > 16 and held(block) > shared:
                block //= 2
            return block

        return dataclasses.replace(self, prompt_block=fitting(self.prompt_block), own_block=fitting(self.own_block))

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "early" and value < 1:
                raise ValueError(f"Tiles.{field.name} must be at least 1, got {value}.")
            if not field.name.endswith(("splits", "stages", "early")) and value & (value - 1):
                raise ValueError(f"Tiles.{field.name} must be a power of two, got {value}.")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The legend's letters, parts of the projections, and what follows from them and `tiles`; static in the kernels."""

    prompts: int
    samples: int
    heads: int
    kv_heads: int
    dim: int
    prompt: int
    room: int
    tiles: Tiles
    parts: int = 1

    @property
    def repeat(self) -> int:
        """R."""
        return self.heads // self.kv_heads

    @property
    def fields(self) -> int:
        """Vectors that the projections make of a sample: queries, then keys, then values."""
        return self.heads + 2 * self.kv_heads

    @property
    def projections(self) -> int:
        """Numbers in one part of the projections, N * G * W."""
        return self.prompts * self.samples * self.fields * self.dim

    @property
    def rows(self) -> int:
        """Queries of all heads, N * G * H."""
        return self.prompts * self.samples * self.heads

    @property
    def own_rows(self) -> int:
        """Queries in a program over a sample's own positions: R, filled up to what tensor cores take."""
        return max(16, power_of_two(self.repeat))

    @property
    def own_splits(self) -> int:
        """No more than there are blocks."""
        return min(self.tiles.own_splits, -(-self.room // self.tiles.own_block))

    @property
    def shared_rows(self) -> int:
        """Queries in a program over a prompt's positions."""
        return min(self.tiles.rows, max(16, power_of_two(self.samples * self.repeat)))

    @property
    def shared_tiles(self) -> int:
        """Programs that share the queries of a prompt and kv head."""
        return -(-self.samples * self.repeat // self.shared_rows)

    @property
    def prompt_blocks(self) -> int:
        """Blocks of a prompt."""
        return -(-self.prompt // self.tiles.prompt_block)

    @property
    def prompt_share(self) -> int:
        """Blocks of a prompt for one program."""
        return -(-self.prompt_blocks // self.tiles.prompt_splits)

    @property
    def prompt_splits(self) -> int:
        """Programs that share a prompt's positions; every one has some."""
        return -(-self.prompt_blocks // self.prompt_share)

    @property
    def splits(self) -> int:
        """Sums of a query."""
        return self.prompt_splits + self.own_splits

    @property
    def own_programs(self) -> int:
        """Programs over own positions."""
        return self.prompts * self.samples * self.kv_heads * self.own_splits

    @property
    def shared_programs(self) -> int:
        """Programs over prompts."""
        return self.prompts * self.kv_heads * self.shared_tiles * self.prompt_splits


class New(NamedTuple):
    """What is new to a step, as flat arrays, or references to them in the kernels. W = (H + 2 K) D."""

    sums: Any  # [S * N * G * W] of the projections
    bias: Any  # [W], or None
    cos: Any  # [N * G * D / 2]
    sin: Any


def power_of_two(x: int) -> int:
    """The least that is no smaller than `x`."""
    return 1 << (x - 1).bit_length()


@functools.partial(jax.jit, static_argnames=("interpret", "tiles"))  # or every layer would be traced on its own
def decode_attention(
    qkv: Float[Array, "N G 1 W"] | Parts,
    rotary: Rotary,
    prompt_key: Float[Array, "N K P D"],
    prompt_value: Float[Array, "N K P D"],
    prompt_mask: Bool[Array, "N P"],
    key: Float[Array, "NGK T D"],
    value: Float[Array, "NGK T D"],
    step: Int[Array, ""],
    *,
    interpret: bool = False,
    tiles: Tiles | None = None,
) -> tuple[Float[Array, "N G 1 HD"], Float[Array, "NGK T D"], Float[Array, "NGK T D"]]:
    """One layer's attention for the newest token of every sample.

    On a GPU D is a power of two, at least 32.

    Args:
        qkv: queries, keys and values side by side, W = (H + 2 K) D, not rotated; or in parts [S, N, G, 1, W], which the
            kernels add up as they read them.
        rotary: cosines and sines [N, G, 1, D] of the token's place, whose halves are equal.
        prompt_key: rotated keys of the prompts.
        prompt_value: their values.
        prompt_mask: True at real tokens.
        key: rotated keys of the samples' `step` tokens before this one; donate it, or it is copied.
        value: their values; likewise.
        step: where the new token is appended.
        interpret: on a CPU, for tests.
        tiles: how the work is cut; default: what suits the sizes.

    Returns:
        The weighted values, and `key` and `value` with those of the new token at `step`.
    """
    from lam_jax.gpu import decode_kernels  # here, because it imports Pallas, which CPU users have no use for

    qkv = qkv if isinstance(qkv, Parts) else Parts(qkv[None])
    parts, *lead, width = qkv.sums.shape
    prompts, samples = lead[:2]
    kv_heads, prompt, dim = prompt_key.shape[1:]
    heads = width // dim - 2 * kv_heads
    tiles = tiles or Tiles.suited(prompts, samples, kv_heads)
    sizes = Sizes(prompts, samples, heads, kv_heads, dim, prompt, key.shape[-2], tiles, parts)
    # In the activations' dtype, as `Rotary` applies them; the compiler makes these once for all layers.
    cos, sin = (x[..., : dim // 2].astype(key.dtype).reshape(-1) for x in (rotary.cos, rotary.sin))
    bias = None if qkv.bias is None else qkv.bias.astype(key.dtype)
    new = New(qkv.sums.reshape(-1), bias, cos, sin)
    y, key, value = decode_kernels.attend(
        new, (prompt_key, prompt_value, prompt_mask), (key, value), step.reshape(1), sizes, interpret
    )
    return y.reshape(*lead, -1), key, value
