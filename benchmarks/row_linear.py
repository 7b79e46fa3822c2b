"""Times the maps of a decode step on a GPU: XLA's products and `lam_jax.gpu.row_linear` in many tilings.

    python -m benchmarks.row_linear [--rows 32 256] [--maps gated down] [--seconds 60]

Every time is the median of a loop over distinct weights, more than the L2 cache holds. For each map the table gives
microseconds, GB/s of weights and the share of the read bandwidth that is measured first.
Legend: R rows, D width, F feed-forward, Q query, key and value together, V vocabulary.
"""

import argparse
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.gpu import row_linear as rows_of
from lam_jax.gpu.tiles import Tiles, choose_tiles

D, F, Q, V = 2048, 11008, 2560, 151936  # Qwen2.5-VL 3B
RUNS = 20
LOOP_BYTES = 2**30  # of weights in one run, so that starting it counts little


@dataclasses.dataclass(frozen=True)
class Map:
    """A map of a decode step."""

    ours: Callable[..., jax.Array]
    xla: Callable[..., jax.Array]
    inputs: int
    outputs: int
    kernels: int = 1  # [D, O] each, or [O, D] of a table
    table: bool = False
    bias: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Of one kernel as it lies."""
        return (self.outputs, self.inputs) if self.table else (self.inputs, self.outputs)

    @property
    def bytes(self) -> int:
        """Of all its kernels in bfloat16."""
        return 2 * self.kernels * self.inputs * self.outputs

    @property
    def copies(self) -> int:
        """Distinct weights that a run reads; twelve, or two where one is far larger than the cache."""
        return 2 if self.table else 12


MAPS = {
    "qkv": Map(rows_of.row_linear, rows_of.linear_by_xla, D, Q, bias=True),
    "output": Map(rows_of.row_linear, rows_of.linear_by_xla, D, D),
    "gated": Map(rows_of.gated, rows_of.gated_by_xla, D, F, kernels=2),
    "down": Map(rows_of.row_linear, rows_of.linear_by_xla, F, D),
    "head": Map(rows_of.row_logits, rows_of.logits_by_xla, D, V, table=True),
}


def tilings(name: str, rows: int) -> Iterator[Tiles]:
    """Those worth trying, the likeliest first."""
    kind = MAPS[name]
    yield choose_tiles(rows, kind.inputs, kind.outputs, 2, kind.kernels)
    splits = {"qkv": (4, 8, 2), "output": (4, 8, 2), "gated": (1, 3), "down": (4, 8, 16), "head": (1,)}[name]
    if rows > 64:
        shapes = [(64, 64, 8, 4), (128, 64, 8, 3), (128, 32, 8, 4), (64, 64, 4, 4)]
    else:
        shapes = [(64, 64, 4, 5), (64, 128, 4, 4), (128, 64, 4, 4), (32, 128, 4, 4), (64, 64, 4, 8), (128, 128, 8, 3)]
    for split, swapped in itertools.product(splits, (False, True)):
        for columns, depth, warps, stages in shapes:
            yield Tiles(columns, depth, split, warps, stages, swapped)


def made(kind: Map, rows: int, key: jax.Array) -> tuple[jax.Array, list[tuple[jax.Array, ...]]]:
    """Rows and the weights of every copy, of a size that keeps products near 1."""

    @jax.jit
    def normal(key: jax.Array) -> tuple[jax.Array, ...]:
        kernels = [jax.random.normal(k, kind.shape, jnp.bfloat16) for k in jax.random.split(key, kind.kernels)]
        bias = [jax.random.normal(key, (kind.outputs,), jnp.bfloat16)] if kind.bias else []
        return *(kernel * kind.inputs**-0.5 for kernel in kernels), *bias

    x = jax.random.normal(key, (rows, kind.inputs), jnp.bfloat16)
    return x, [normal(k) for k in jax.random.split(key, kind.copies)]


def seconds_of(function: Callable[..., jax.Array], x: jax.Array, copies: list[tuple[jax.Array, ...]]) -> float:
    """Of one product: median over runs of a loop in which each product waits for the one before."""
    passes = max(1, LOOP_BYTES // sum(w.nbytes for weights in copies for w in weights))

    @jax.jit
    def run(x: jax.Array, copies: list[tuple[jax.Array, ...]]) -> jax.Array:
        def once(_: Any, x: jax.Array) -> jax.Array:
            for weights in copies:
                y = function(x, *weights)
                # Next to no work, and nothing that the compiler could leave out.
                x = x.at[0, 0].add((y[0, 0] * 1e-6).astype(x.dtype))
            return x

        return jax.lax.fori_loop(0, passes, once, x)

    run(x, copies).block_until_ready()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run(x, copies).block_until_ready()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / (passes * len(copies))


def read_bandwidth() -> float:
    """Bytes per second of a sum over 2 GiB."""
    array = jnp.ones((2**30,), jnp.bfloat16)
    total = jax.jit(lambda a: jnp.sum(a.astype(jnp.float32)))
    total(array).block_until_ready()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        total(array).block_until_ready()
        times.append(time.perf_counter() - start)
    return array.nbytes / min(times)


def error(kind: Map, found: jax.Array, x: jax.Array, weights: tuple[jax.Array, ...]) -> float:
    """Largest deviation from float32 products in NumPy, of some columns."""
    columns = slice(-128, None)
    kernels, bias = weights[: kind.kernels], weights[kind.kernels :]
    own = [np.asarray(w[columns].T if kind.table else w[:, columns], np.float32) for w in kernels]
    products = [np.asarray(x, np.float32) @ w for w in own]
    if kind.kernels == 2:
        gate, up = products
        expected = gate / (1 + np.exp(-gate)) * up
    else:
        expected = products[0] + (np.asarray(bias[0][columns], np.float32)[None] if bias else 0)
    return float(np.abs(np.asarray(found[:, columns], np.float32) - expected).max())


def compare(name: str, rows: int, bandwidth: float, deadline: float) -> None:
    """Prints a line for XLA and for each of the tilings, and at the end the best."""
    kind = MAPS[name]
    x, copies = made(kind, rows, jax.random.key(0))
    best: tuple[float, str] | None = None

    def line(label: str, function: Callable[..., jax.Array]) -> None:
        nonlocal best
        try:
            off = error(kind, jax.jit(function)(x, *copies[0]), x, copies[0])
            took = seconds_of(function, x, copies)
        except Exception as problem:  # of whatever kind: the next tiling may work
            print(f"{name:7}{rows:4}  {label}: {type(problem).__name__}: {str(problem)[:160]!r}", flush=True)
            return
        rate, note = kind.bytes / took, "" if off < 0.05 else "  WRONG"
        text = f"{name:7}{rows:4} {took * 1e6:8.2f} us {rate / 1e9:7.0f} GB/s {rate / bandwidth:6.1%}  {label}"
        print(f"{text}  off by {off:.1e}{note}", flush=True)
        if not note and (best is None or took < best[0]):
            best = took, text

    line("XLA", kind.xla)
    for tiles in dict.fromkeys(tilings(name, rows)):
        if time.monotonic() > deadline:
            print(f"{name:7}{rows:4}  no time for more tilings", flush=True)
            break
        text = f"{tiles.columns}x{tiles.depth} splits {tiles.splits} warps {tiles.warps} stages {tiles.stages}"
        line(text + " swapped" * tiles.swapped, lambda *given, tiles=tiles: kind.ours(*given, tiles=tiles))
    if best is not None:
        print(f"BEST   {best[1]}", flush=True)


def main() -> None:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--maps", nargs="+", default=list(MAPS), choices=MAPS)
    parser.add_argument("--seconds", type=float, default=60.0, help="for everything, shared evenly")
    given = parser.parse_args()
    began = time.monotonic()
    bandwidth = read_bandwidth()
    print(f"{jax.devices()[0].device_kind}: reads {bandwidth / 1e9:.0f} GB/s", flush=True)
    cases = [(rows, name) for rows in given.rows for name in given.maps]
    for done, (rows, name) in enumerate(cases):
        left = began + given.seconds - time.monotonic()
        compare(name, rows, bandwidth, time.monotonic() + left / (len(cases) - done))


if __name__ == "__main__":
    main()
