"""The two kernels of `decode_attention`, in Pallas for Triton.

Small arrays are flat and read at computed places; scores and peaks are in powers of two. Legend there, and M rows of
queries in a program, S sums of a query (`Sizes.splits`), h = D / 2.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from lam_jax.gpu.cost import cost
from lam_jax.gpu.decode_attention import New, Sizes, power_of_two
from lam_jax.gpu.early import after_letting_dependents_start
from lam_jax.nn.attention import FLOOR

# A reference to an array in the GPU's memory.
Ref = Any


def attend(
    new: New,
    prompt: tuple[Array, Array, Array],
    own: tuple[Array, Array],
    step: Array,
    sizes: Sizes,
    interpret: bool,
) -> tuple[Array, Array, Array]:
    """Flat y [N * G * H * D], and the own caches with the new token in them.

    Args:
        new: of the tokens.
        prompt: keys and values [N, K, P, D] and mask [N, P].
        own: keys and values [N * G * K, T, D].
        step: [1].
        sizes: of all.
        interpret: on a CPU.
    """
    tiles, early = sizes.tiles, sizes.tiles.early and not interpret
    count, scores = sizes.splits * sizes.rows, sizes.rows * (sizes.prompt + sizes.room)
    partial = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in (count * sizes.dim, count, count)]
    parts = pl.pallas_call(
        functools.partial(_split_kernel, sizes, early),
        grid=(sizes.own_programs + sizes.shared_programs,),
        out_shape=partial,
        compiler_params=plt.CompilerParams(num_warps=tiles.num_warps, num_stages=tiles.num_stages),
        interpret=interpret,
        name="decode_attention_split",
        # As if all room were written: how much is, only a step knows.
        cost_estimate=cost(4 * scores * sizes.dim, scores, (new, prompt, own, partial)),
    )(step, new, *prompt, *own)
    y = jax.ShapeDtypeStruct((sizes.rows * sizes.dim,), own[0].dtype)
    token = [jax.ShapeDtypeStruct((x.shape[0], sizes.dim), x.dtype) for x in own]
    cached = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in own]
    before = 1 + len(jax.tree.leaves(new)) + len(parts)  # the own caches
    y, key, value = pl.pallas_call(
        functools.partial(_merge_kernel, sizes, early),
        grid=(sizes.rows,),
        out_shape=[y, *cached],
        input_output_aliases={before: 1, before + 1: 2},
        compiler_params=plt.CompilerParams(num_warps=tiles.merge_warps, num_stages=1),
        interpret=interpret,
        name="decode_attention_merge",
        cost_estimate=cost(0, count, (new, parts, y, token)),
    )(step, new, *parts, *own)
    return y, key, value


def _split_kernel(
    sizes: Sizes,
    early: bool,
    step: Ref,
    new: New,
    prompt_key: Ref,
    prompt_value: Ref,
    prompt_mask: Ref,
    key: Ref,
    value: Ref,
    *parts: Ref,
) -> None:
    """Softmax sums [S, N * G * H, D], masses and peaks [S, N * G * H] over some positions each."""
    program, repeat = _program(early), sizes.repeat

    # The longer ones come first.
    @pl.when(program < sizes.own_programs)
    def _own():
        pair, split = _divide(program, sizes.own_splits)  # of sample and kv head
        length = step[0]
        first, last = _own_share(length, split, sizes)

        @pl.when(first < last)
        def _some():
            row = jnp.arange(sizes.own_rows, dtype=jnp.int32)
            head, real = pair * repeat + row, row < repeat

            def read(positions: Any, inside: Array) -> tuple[Array, Array, Array, Array]:
                return *_keys_values(key, value, (pair, positions), inside, sizes), inside

            part = _part(_queries(new, head, real, key.dtype, sizes), read, first, last, length, sizes.tiles.own_block)
            _store_part(sizes, parts, sizes.prompt_splits + split, head, real, part)

    @pl.when(program >= sizes.own_programs)
    def _shared():
        # Tiles of queries that read the same positions are neighbours.
        rest, tile = _divide(program - sizes.own_programs, sizes.shared_tiles)
        pair, split = _divide(rest, sizes.prompt_splits)
        prompt, kv_head = _divide(pair, sizes.kv_heads)
        row = tile * sizes.shared_rows + jnp.arange(sizes.shared_rows, dtype=jnp.int32)
        real = row < sizes.samples * repeat
        sample, within = _divide(row, repeat)
        head = (prompt * sizes.samples + sample) * sizes.heads + kv_head * repeat + within
        first = split * sizes.prompt_share
        last = jnp.minimum(first + sizes.prompt_share, sizes.prompt_blocks)
        whole = sizes.prompt % sizes.tiles.prompt_block == 0

        def read(positions: Any, inside: Array) -> tuple[Array, Array, Array, Array]:
            exists = None if whole else inside
            keep = plt.load(prompt_mask.at[prompt, positions], mask=exists, other=None if whole else False)
            return *_keys_values(prompt_key, prompt_value, (prompt, kv_head, positions), exists, sizes), keep

        queries = _queries(new, head, real, key.dtype, sizes)
        part = _part(queries, read, first, last, sizes.prompt, sizes.tiles.prompt_block)
        _store_part(sizes, parts, split, head, real, part)


def _merge_kernel(
    sizes: Sizes,
    early: bool,
    step: Ref,
    new: New,
    sums: Ref,
    masses: Ref,
    peaks: Ref,
    _old_key: Ref,
    _old_value: Ref,
    y: Ref,
    key: Ref,
    value: Ref,
) -> None:
    """Adds up one query's sums and the new token; the first query of a kv head appends the token."""
    head = _program(early)
    pair, within = _divide(head, sizes.repeat)
    sample, number = _divide(head, sizes.heads)
    kv_head, _ = _divide(number, sizes.repeat)
    half, dim = jnp.arange(sizes.dim // 2, dtype=jnp.int32), jnp.arange(sizes.dim, dtype=jnp.int32)
    cos, sin = (x[sample * (sizes.dim // 2) + half] for x in (new.cos, new.sin))

    def vector(field: Array) -> tuple[Array, Array]:
        first, second = (_projected(new, sample, field, start + half, None, y.dtype, sizes) for start in starts)
        return _rotated(first, second, cos, sin)

    starts = (0, sizes.dim // 2)
    query, new_key = vector(number), vector(sizes.heads + kv_head)
    new_value = _projected(new, sample, sizes.heads + sizes.kv_heads + kv_head, dim, None, y.dtype, sizes)
    products = [one.astype(jnp.float32) * two.astype(jnp.float32) for one, two in zip(query, new_key, strict=True)]
    score = jnp.sum(products[0] + products[1]) * _scale_of(sizes.dim)

    split = jnp.arange(power_of_two(sizes.splits), dtype=jnp.int32)
    first, last = _own_share(step[0], split - sizes.prompt_splits, sizes)
    live = (split < sizes.prompt_splits) | ((split < sizes.splits) & (first < last))
    at = split * sizes.rows + head
    peak = plt.load(peaks.at[at], mask=live, other=FLOOR)
    mass = plt.load(masses.at[at], mask=live, other=0.0)
    both = jnp.broadcast_to(live[:, None], (split.size, dim.size))
    part = plt.load(sums.at[at[:, None] * sizes.dim + dim[None, :]], mask=both, other=0.0)
    top = jnp.maximum(jnp.max(peak), score)
    weight, own = jnp.exp2(peak - top), jnp.exp2(score - top)
    total = jnp.sum(part * weight[:, None], axis=0) + own * new_value.astype(jnp.float32)
    total = total / (jnp.sum(mass * weight) + own)
    plt.store(y.at[head * sizes.dim + dim], total.astype(y.dtype))

    @pl.when(within == 0)
    def _append():
        plt.store(key.at[pair, step[0], pl.ds(0, sizes.dim // 2)], new_key[0])
        plt.store(key.at[pair, step[0], pl.ds(sizes.dim // 2, sizes.dim // 2)], new_key[1])
        plt.store(value.at[pair, step[0], pl.ds(0, sizes.dim)], new_value)


def _part(
    queries: tuple[Array, Array],
    read: Callable[[Any, Array], tuple[Array, Array, Array, Array]],
    first: Array,
    last: Array,
    length: Array | int,
    block: int,
) -> tuple[Array, Array, Array]:
    """Sum [M, D], mass and peak [M] of queries (halves [M, h]) over the blocks first to last.

    Args:
        queries: rotated.
        read: halves of the keys, values and which of them count, given a slice and which positions are below `length`.
        first: block.
        last: block, not included.
        length: positions.
        block: positions of a block.
    """
    rows, half = queries[0].shape
    scale = _scale_of(2 * half)

    def add(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        total, mass, peak = carry
        start = pl.multiple_of(i * block, block)
        inside = start + jnp.arange(block, dtype=jnp.int32) < length
        *keys, values, keep = read(pl.ds(start, block), inside)
        scores = (_product(queries[0], keys[0].T) + _product(queries[1], keys[1].T)) * scale
        scores = jnp.where(jnp.broadcast_to(keep[None, :], scores.shape), scores, FLOOR)
        top = jnp.maximum(peak, jnp.max(scores, axis=1))
        weights, shrink = jnp.exp2(scores - top[:, None]), jnp.exp2(peak - top)
        total = total * shrink[:, None] + _product(weights.astype(values.dtype), values)
        return total, mass * shrink + jnp.sum(weights, axis=1), top

    # Half the floor, so that a query without keys weighs nothing.
    none = jnp.zeros((rows, 2 * half), jnp.float32), jnp.zeros(rows, jnp.float32), jnp.full(rows, FLOOR / 2)
    return jax.lax.fori_loop(first, last, add, none)


def _product(x: Array, y: Array) -> Array:
    """In float32; float32 operands are not cut to TF32."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.dot(x, y, precision=precision, preferred_element_type=jnp.float32)


def _queries(new: New, head: Array, real: Array, dtype: Any, sizes: Sizes) -> tuple[Array, Array]:
    """Halves [M, h] of rotated queries; of rows that are not real, zeros."""
    size = sizes.dim // 2
    half = jnp.arange(size, dtype=jnp.int32)[None, :]
    sample, number = (x[:, None] for x in _divide(head, sizes.heads))
    mask = jnp.broadcast_to(real[:, None], (real.size, size))
    first, second = (_projected(new, sample, number, start + half, mask, dtype, sizes) for start in (0, size))
    cos, sin = (plt.load(x.at[sample * size + half], mask=mask, other=0.0) for x in (new.cos, new.sin))
    return _rotated(first, second, cos, sin)


def _projected(
    new: New, sample: Array, field: Array, within: Array, mask: Array | None, dtype: Any, sizes: Sizes
) -> Array:
    """Numbers `within` a sample's vector `field`, their parts added up and rounded as `Linear` does."""

    def load(x: Ref, at: Array) -> Array:
        return plt.load(x.at[at], mask=mask, other=None if mask is None else 0.0)

    place = (sample * sizes.fields + field) * sizes.dim + within
    total = load(new.sums, place)
    for part in range(1, sizes.parts):
        total += load(new.sums, part * sizes.projections + place)
    total = total.astype(dtype)
    if new.bias is None:
        return total
    bias = load(new.bias, field * sizes.dim + within)
    return (total.astype(jnp.float32) + bias.astype(jnp.float32)).astype(dtype)


def _rotated(first: Array, second: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
    """Both halves of a rotated vector, in the dtype of `first`."""
    one, two, cos, sin = (x.astype(jnp.float32) for x in (first, second, cos, sin))
    return (one * cos - two * sin).astype(first.dtype), (two * cos + one * sin).astype(first.dtype)


def _keys_values(key: Ref, value: Ref, at: tuple, exists: Array | None, sizes: Sizes) -> tuple[Array, Array, Array]:
    """Both halves of a block's keys, and its values; zeros at positions that do not exist."""
    size = sizes.dim // 2

    def load(x: Ref, start: int, width: int) -> Array:
        if exists is None:
            return plt.load(x.at[(*at, pl.ds(start, width))])
        mask = jnp.broadcast_to(exists[:, None], (exists.size, width))
        return plt.load(x.at[(*at, pl.ds(start, width))], mask=mask, other=0.0)

    return load(key, 0, size), load(key, size, size), load(value, 0, sizes.dim)


def _store_part(
    sizes: Sizes, parts: tuple[Ref, ...], split: Array, head: Array, real: Array, part: tuple[Array, Array, Array]
) -> None:
    """Writes the rows that are real."""
    sums, masses, peaks = parts
    total, mass, peak = part
    at = split * sizes.rows + head
    place = at[:, None] * sizes.dim + jnp.arange(sizes.dim, dtype=jnp.int32)[None, :]
    plt.store(sums.at[place], total, mask=jnp.broadcast_to(real[:, None], total.shape))
    plt.store(masses.at[at], mass, mask=real)
    plt.store(peaks.at[at], peak, mask=real)


def _own_share(length: Array, split: Array, sizes: Sizes) -> tuple[Array, Array]:
    """First and last block (not included) of a split of `length` own positions; as even as blocks allow."""
    blocks, _ = _divide(length + sizes.tiles.own_block - 1, sizes.tiles.own_block)
    share, _ = _divide(blocks + sizes.own_splits - 1, sizes.own_splits)
    return split * share, jnp.minimum((split + 1) * share, blocks)


def _program(early: bool) -> Array:
    """The number of this program."""
    return after_letting_dependents_start(pl.program_id(0)) if early else pl.program_id(0)


def _divide(x: Array, y: int) -> tuple[Array, Array]:
    """Quotient and remainder of numbers that are not negative, without the sign handling of `//`."""
    quotient = jax.lax.div(x, jnp.full_like(x, y))
    return quotient, x - quotient * y


def _scale_of(dim: int) -> float:
    """Of scores: to unit variance, and to powers of two."""
    return dim**-0.5 * math.log2(math.e)
