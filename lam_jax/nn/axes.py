"""Logical axes of activations. Modules name them; what a name means on a mesh is up to `lam_jax.parallel`.

That keeps this package free of meshes: `lam_jax.parallel.use` installs a `Placement` here for the time of a trace.
Rows [B, ..] lie on the axis `batch`, samples [N, G, ..] on `prompts` and `samples`.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

# Bytes that a device may receive for a sum at once: so many take a TPU's links less than the way back of a sum that
# goes round.
AT_ONCE = 2**19

# Per dimension a logical axis, None (not sharded) or ANY (as the compiler likes).
Axes = tuple[str | None, ...]
ANY = "*"


@runtime_checkable
class Placement(Protocol):
    """Where arrays with logical axes lie."""

    def pin(self, x: jax.Array, axes: Axes) -> jax.Array:
        """The array with its sharding pinned."""
        ...

    def names(self, axis: str) -> tuple[str, ...]:
        """Mesh axes of more than one device behind a logical axis."""
        ...

    def on_shards(
        self,
        function: Callable[..., Any],
        arrays: Sequence[jax.Array],
        inputs: Sequence[Axes],
        outputs: Any,
        gathers: bool = False,
    ) -> Any:
        """`function` of each device's own parts of `arrays`; `outputs` is a tree of the axes of its results.

        Samples lie on no mesh axis that another logical axis of `inputs` lies on, unless the function `gathers` them.
        Such a function is not differentiated, and may make by other ways than sums what all devices have alike.
        """
        ...


_active: contextvars.ContextVar[Placement | None] = contextvars.ContextVar("placement", default=None)


@contextlib.contextmanager
def placed_by(placement: Placement | None) -> Iterator[None]:
    """Lets `placement` decide in functions traced inside; None: there is one device only."""
    token = _active.set(placement)
    try:
        yield
    finally:
        _active.reset(token)


def active() -> Placement | None:
    """The placement in force."""
    return _active.get()


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins the sharding of an activation by logical axes; the identity outside `lam_jax.parallel.use`."""
    placement = _active.get()
    return x if placement is None else placement.pin(x, axes)


def constrain_rows(x: jax.Array, *last: str | None) -> jax.Array:
    """Pins [B, ..] to `batch`; `last` are the axes of the last dimensions, those between are not sharded."""
    return constrain(x, "batch", *(None,) * (x.ndim - 1 - len(last)), *last)


def constrain_samples(x: jax.Array, *last: str | None) -> jax.Array:
    """Pins [N, G, ..] to `prompts` and `samples`; `last` as in `constrain_rows`."""
    return constrain(x, "prompts", "samples", *(None,) * (x.ndim - 2 - len(last)), *last)


def constrain_last(x: jax.Array, *last: str | None) -> jax.Array:
    """Pins the last dimensions only."""
    return constrain(x, *(ANY,) * (x.ndim - len(last)), *last)


def wide_axes() -> tuple[str, ...]:
    """Mesh axes that shard both samples and the feed-forward; none on most meshes, see `lam_jax.parallel.rules`."""
    placement = _active.get()
    if placement is None:
        return ()
    return tuple(name for name in placement.names("mlp") if name in placement.names("samples"))


def gathered(x: jax.Array) -> jax.Array:
    """Samples [N, G, ..] as a map to the feed-forward or to the vocabulary reads them; most meshes: as they are."""
    return constrain(x, "prompts", "gathered", *(None,) * (x.ndim - 2)) if wide_axes() else x


def scattered(x: jax.Array) -> jax.Array:
    """The opposite of `gathered`."""
    return constrain_samples(x) if wide_axes() else x


def summed(x: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """The sum over mesh axes, inside `on_shards`; of few bytes every device fetches all parts and adds them up.

    A sum that goes round makes its way twice, which is what it costs where it is small.
    """
    others = math.prod(jax.lax.axis_size(name) for name in names) - 1
    if not others:
        return x
    if x.size * x.dtype.itemsize * others > AT_ONCE:
        return jax.lax.psum(x, names)
    return jnp.sum(jax.lax.all_gather(x, names), axis=0, dtype=jnp.float32).astype(x.dtype)


def scattered_sum(x: jax.Array, names: tuple[str, ...], axis: int) -> jax.Array:
    """The sum over mesh axes, of whose dimension `axis` each device gets its share; inside `on_shards`.

    By an exchange of the parts: of a scattered sum TPUs make a whole one, which makes its way twice, and cut it.
    """
    count = math.prod(jax.lax.axis_size(name) for name in names)
    parts = jax.lax.all_to_all(x, names, split_axis=axis, concat_axis=axis, tiled=True)
    parts = parts.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :])
    return jnp.sum(parts, axis=axis, dtype=jnp.float32).astype(x.dtype)


def leading(dimensions: int) -> tuple[str, ...]:
    """Logical axes of one (rows) or two (prompts, samples) leading dimensions."""
    return {1: ("batch",), 2: ("prompts", "samples")}[dimensions]
