"""Rows that change their shard, without any device ever holding all of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

AXIS = "data"


@functools.partial(jax.jit, static_argnames="mesh")
def take_rows(tree: Any, source: Int[Array, " M"], mesh: Mesh | None) -> Any:
    """Rows `source` of every array, whose leading dimension N lies on `data`; M rows that lie there as well.

    On several data shards the rows travel round the ring of shards, one shard's rows at a time, and each shard keeps
    what it needs. A negative source gives any row.
    """
    if mesh is None or mesh.shape[AXIS] == 1:
        return jax.tree.map(lambda x: jnp.take(x, jnp.maximum(source, 0), axis=0), tree)
    shards = mesh.shape[AXIS]
    to_previous = [(i, (i - 1) % shards) for i in range(shards)]

    def one_shard(tree: Any, source: Array) -> Any:
        count = jax.tree.leaves(tree)[0].shape[0]
        here = jax.lax.axis_index(AXIS)

        def turn(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            found, passing = carry
            # After i turns this shard sees the rows of the i-th shard behind it.
            row = source - (here + i) % shards * count
            hit = (row >= 0) & (row < count)

            def keep(old: Array, rows: Array) -> Array:
                new = jnp.take(rows, jnp.clip(row, 0, count - 1), axis=0)
                return jnp.where(hit.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

            found = jax.tree.map(keep, found, passing)
            return found, jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, to_previous), passing)

        empty = jax.tree.map(lambda x: jnp.take(x, jnp.zeros_like(source), axis=0), tree)
        return jax.lax.fori_loop(0, shards, turn, (empty, tree))[0]

    rows = PartitionSpec(AXIS)
    exchange = jax.shard_map(one_shard, mesh=mesh, in_specs=(rows, rows), out_specs=rows, axis_names={AXIS})
    return exchange(tree, source)
