"""Work on a vocabulary that lies in shards: the embedding, and reading out of logits. Logits are never gathered.

On one device these are the plain operations. On several they run shard by shard, with the few sums that takes; what
the compiler makes of a gather, a top-k or a scan over a sharded dimension is a copy of all shards.
Legend: V vocabulary (or number of actions), D width, S indices, L length.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lam_jax.nn.axes import Axes, active, constrain, leading, scattered_sum, summed, wide_axes

Names = tuple[str, ...]  # mesh axes


def look_up(table: Float[Array, "V D"], tokens: Int[Array, "*B L"], dtype: jnp.dtype) -> Float[Array, "*B L D"]:
    """Rows of the embedding in the compute dtype.

    Where the width is sharded too (training), the tokens visit the shards of the width, not the table the tokens.
    """
    placement = active()
    if placement is None:
        return jnp.take(table, tokens, axis=0).astype(dtype)
    axes = (*leading(tokens.ndim - 1), None)
    across, width = placement.names("vocab"), placement.names("embed")
    beside = next((i for i, axis in enumerate(axes) if axis and set(width) & set(placement.names(axis))), None)

    def own(table: Array, numbers: Array, tokens: Array) -> Array:
        if width and beside is not None:
            tokens = jax.lax.all_gather(tokens, width, axis=beside, tiled=True)
        index, hit = _own_index(tokens, numbers)
        x = jnp.where(hit[..., None], jnp.take(table, index, axis=0), 0.0).astype(dtype)
        x = jax.lax.psum(x, across) if across else x
        if not width:
            return x
        if beside is None:
            # A sum of disjoint parts, not a gather: its result is known to be the same on all shards of the width.
            size = x.shape[-1]
            whole = jnp.zeros((*x.shape[:-1], size * jax.lax.axis_size(width)), x.dtype)
            whole = jax.lax.pcast(whole, width, to="varying")
            start = jax.lax.axis_index(width) * size
            return jax.lax.psum(jax.lax.dynamic_update_slice_in_dim(whole, x, start, axis=x.ndim - 1), width)
        return jax.lax.all_to_all(x, width, split_axis=beside, concat_axis=x.ndim - 1, tiled=True)

    arrays = (table, jnp.arange(table.shape[0], dtype=tokens.dtype), tokens)
    inputs = (("vocab", "embed"), ("vocab",), axes)
    wide = wide_axes()
    if wide and "samples" in axes and not width:
        rest = tuple(name for name in across if name not in wide)

        def scattered(table: Array, numbers: Array, tokens: Array) -> Array:
            index, hit = _own_index(jax.lax.all_gather(tokens, wide, axis=1, tiled=True), numbers)
            x = jnp.where(hit[..., None], jnp.take(table, index, axis=0), 0.0).astype(dtype)
            return summed(scattered_sum(x, wide, 1), rest)

        return placement.on_shards(scattered, arrays, inputs, (*axes, None), gathers=True)
    return placement.on_shards(own, arrays, inputs, (*axes, None))


def _own_index(index: Array, numbers: Array) -> tuple[Array, Array]:
    """Places in this shard, which holds the entries `numbers`, and which of them it really has."""
    place = index - numbers[0]
    return jnp.clip(place, 0, numbers.shape[0] - 1), (place >= 0) & (place < numbers.shape[0])


def whole_width(table: Float[Array, "V D"], rows: Axes) -> Float[Array, "V W"]:
    """The table with its width gathered from `fsdp`, the vocabulary still in shards; inside `on_shards`.

    It counts as another on every shard of `rows`: so its gradient is summed up over them once, after all uses.
    """
    placement = active()
    if placement is None:
        return table
    width = placement.names("embed")
    others = tuple(name for axis in rows if axis for name in placement.names(axis) if name not in width)
    table = jax.lax.pcast(table, others, to="varying") if others else table
    return jax.lax.all_gather(table, width, axis=1, tiled=True) if width else table


def log_sum_exp(logits: Float[Array, "*B V"], across: Names = ()) -> Float[Array, "*B"]:
    """log sum exp over the vocabulary, whose shards lie on the mesh axes `across`; inside `on_shards`."""
    if not across:
        return jax.nn.logsumexp(logits, axis=-1)
    # Any shift gives the same sum.
    peak = jax.lax.pmax(jax.lax.stop_gradient(jnp.max(logits, axis=-1)), across)
    return jnp.log(jax.lax.psum(jnp.sum(jnp.exp(logits - peak[..., None]), axis=-1), across)) + peak


def expectation(logps: Float[Array, "*B V"], values: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """`sum_v exp(logps) * values`.

    A product of vectors, in full precision on every device: a sum over `exp(x) * x` takes XLA's CPU backend five
    times as long, which was a twentieth of a token-level decode step.
    """
    return jnp.vecdot(jnp.exp(logps), values, precision="highest")


def own_pick(
    values: Float[Array, "*B V"], index: Int[Array, "*B"], numbers: Int[Array, " V"], across: Names = ()
) -> Float[Array, "*B"]:
    """`values[.., index]`, where this shard holds the entries `numbers`; inside `on_shards`."""
    if not across:
        return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
    place, hit = _own_index(index, numbers)
    found = jnp.take_along_axis(values, place[..., None], axis=-1)[..., 0]
    return jax.lax.psum(jnp.where(hit, found, 0.0), across)


def arg_max(values: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """Index of the largest, of equals the earlier one.

    On one device two plain reductions: one over pairs of value and index runs an entry at a time on CPUs. Over shards
    that one is a single collective; two of them made rollouts on 8 host devices hang.
    """
    if active() is not None:
        return jnp.argmax(values, axis=-1).astype(jnp.int32)
    best = jnp.max(values, axis=-1, keepdims=True)
    number = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    # A row of NaN has no entry equal to its largest; its index must be one all the same.
    return jnp.min(jnp.where(values == best, number, values.shape[-1] - 1), axis=-1)


def largest(values: Float[Array, "*B V"]) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
    """`arg_max`, and the largest itself: NaN where one of the values is."""
    placement = active()
    if placement is None:
        return arg_max(values), jnp.max(values, axis=-1)
    if not wide_axes():
        index = arg_max(values)
        return index, pick(values, index)
    lead, across = leading(values.ndim - 1), placement.names("vocab")

    def own(values: Array, numbers: Array) -> tuple[Array, Array]:
        index = jnp.argmax(values, axis=-1)
        best = jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0].astype(jnp.float32)
        # One gather for both; the numbers of a vocabulary are exact in float32.
        both = jnp.stack([best, jnp.take(numbers, index).astype(jnp.float32)], axis=-1)
        shards = jax.lax.all_gather(both, across, axis=0).reshape(-1, *both.shape)
        first = jnp.argmax(shards[..., 0], axis=0)[None, ..., None]
        best, index = jnp.moveaxis(jnp.take_along_axis(shards, first, axis=0)[0], -1, 0)
        return index.astype(jnp.int32), best

    inputs = ((*lead, "vocab"), ("vocab",))
    rows = tuple("gathered" if axis == "samples" else axis for axis in lead)
    return placement.on_shards(own, (values, jnp.arange(values.shape[-1])), inputs, (rows, rows), gathers=True)


def occurring(tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], vocab: int) -> Bool[Array, "B V"]:
    """Which tokens of the vocabulary stand in a row, where its mask is True."""

    def own(numbers: Array, tokens: Array, mask: Array) -> Array:
        index, hit = _own_index(tokens, numbers)
        rows = jnp.arange(tokens.shape[0])[:, None]
        return jnp.zeros((tokens.shape[0], numbers.shape[0]), bool).at[rows, index].max(mask & hit)

    numbers, rows, placement = jnp.arange(vocab, dtype=tokens.dtype), (*leading(1), None), active()
    if placement is None:
        return own(numbers, tokens, mask)
    return placement.on_shards(own, (numbers, tokens, mask), (("vocab",), rows, rows), (*leading(1), "vocab"))


def first_places(
    prompt: Int[Array, "N P"],
    prompt_mask: Bool[Array, "N P"],
    tokens: Int[Array, "N G T"],
    mask: Bool[Array, "N G T"],
    vocab: int,
) -> Int[Array, "N G V"]:
    """The first step of a continuation at which each token has occurred before: 0 for those of its prompt.

    A token has occurred before step t if its place is t or less; one that never occurs has the place T + 1.
    """
    length = tokens.shape[-1]
    asked = jnp.where(occurring(prompt, prompt_mask, vocab), 0, length + 1).astype(jnp.int32)
    start = jnp.broadcast_to(asked[:, None], (*tokens.shape[:2], vocab))
    numbers = jax.lax.broadcasted_iota(tokens.dtype, (1, 1, vocab), 2)

    def earlier(place: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
        t, token, alive = step
        said = (token[..., None] == numbers) & alive[..., None]
        return jnp.minimum(place, jnp.where(said, t + 1, length + 1)), None

    steps = (jnp.arange(length, dtype=jnp.int32), jnp.moveaxis(tokens, 2, 0), jnp.moveaxis(mask, 2, 0))
    return jax.lax.scan(earlier, constrain(start, "prompts", "samples", "vocab"), steps)[0]


def pick(values: Float[Array, "*B V"], index: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """`values[.., index]`."""
    return pick_many(values, index[..., None])[..., 0]


def pick_many(values: Float[Array, "*B V"], indices: Int[Array, "*B S"]) -> Float[Array, "*B S"]:
    """`values[.., indices[.., s]]` for every s."""
    if active() is None:
        return jnp.take_along_axis(values, indices, axis=-1)
    # A sum over V in which one term counts is fused, and stays where the shards are.
    number = jax.lax.broadcasted_iota(indices.dtype, (*(1,) * indices.ndim, values.shape[-1]), indices.ndim)
    return jnp.sum(jnp.where(indices[..., None] == number, values[..., None, :], 0.0), axis=-1)


def top_k(
    values: Float[Array, "*B V"], count: int, axis: str = "vocab"
) -> tuple[Float[Array, "*B S"], Int[Array, "*B S"]]:
    """The S=count largest and their indices, the largest first, of equals the earlier one.

    Each shard finds its own; what is gathered is `count` candidates a shard.

    Args:
        values: rows [B, V] or samples [N, G, V].
        count: how many.
        axis: logical axis of V.

    Raises:
        ValueError: a shard holds less than `count`, so that the whole vocabulary would have to be gathered.
    """
    placement = active()
    if placement is None:
        best, index = jax.lax.top_k(values, count)
        return best, index
    lead = leading(values.ndim - 1)

    def own(values: Array, numbers: Array) -> tuple[Array, Array]:
        if count > numbers.shape[0]:
            raise ValueError(
                f"The {count} likeliest of {vocab} tokens in shards of {numbers.shape[0]}: every step would gather all "
                f"logits. Set a top_k of at most {numbers.shape[0]} (top_p then works on those), or choose a smaller "
                "tensor axis."
            )
        best, place = jax.lax.top_k(values, count)
        return best, jnp.take(numbers, place, axis=0)

    def best_of(values: Array, index: Array) -> tuple[Array, Array]:
        best, place = jax.lax.top_k(values, count)
        return best, jnp.take_along_axis(index, place, axis=-1)

    vocab = values.shape[-1]
    arrays = (values, jnp.arange(vocab, dtype=jnp.int32))
    candidates = placement.on_shards(own, arrays, ((*lead, axis), (axis,)), ((*lead, axis), (*lead, axis)))
    whole = (*lead, None)
    return placement.on_shards(best_of, [constrain(x, *whole) for x in candidates], (whole, whole), (whole, whole))
