"""Times the maps of a decode step on a GPU: XLA's products and `lam_jax.gpu.row_linear` in many tilings.

    python -m benchmarks.row_linear [--rows 32] [--maps gated down] [--seconds 60]

Every time is the median of a loop over distinct weights, more than the L2 cache holds; a map that an elementwise
operation follows in a decode step has one here too, with which the sum over splits is fused. For each map the table
gives microseconds, GB/s of weights and the share of the read bandwidth that is measured first.
Legend: R rows, D width, F feed-forward, Q query, key and value together, V vocabulary.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.gpu import row_linear as rows_of
from lam_jax.gpu.tiles import Tiles, choose_tiles

D, F, Q, V = 2048, 11008, 2560, 151936  # Qwen2.5-VL 3B
RUNS = 20
COMPILING = 0.6  # share of a case's time after which no further tiling is compiled
LOOP_BYTES = 6 * 2**30  # of weights in one run, so that starting it counts little


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
    followed: bool = True  # by an elementwise operation: rotation, or the residual and a norm

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
    "gated": Map(rows_of.gated, rows_of.gated_by_xla, D, F, kernels=2, followed=False),
    "down": Map(rows_of.row_linear, rows_of.linear_by_xla, F, D),
    "head": Map(rows_of.row_logits, rows_of.logits_by_xla, D, V, table=True, followed=False),
}


def tilings(name: str, rows: int) -> list[Tiles]:
    """Those worth trying, the likeliest first."""
    kind = MAPS[name]
    chosen = choose_tiles(rows, kind.inputs, kind.outputs, 2, kind.kernels)
    found = [
        dataclasses.replace(chosen, swapped=swapped, early=early)
        for early in (False, True)
        for swapped in (False, True)
    ]
    splits = {"qkv": (4, 3, 6), "output": (4, 8, 6), "gated": (1, 3), "down": (8, 4, 16), "head": (1,)}[name]
    if rows > 64:
        shapes = [(64, 64, 8, 4), (128, 64, 8, 4), (128, 32, 8, 6), (64, 128, 8, 2)]
    elif kind.kernels == 2:
        shapes = [(64, 64, 4, 4), (64, 32, 4, 8), (64, 128, 4, 3), (32, 128, 4, 4), (64, 64, 8, 5), (128, 64, 8, 3)]
    else:
        shapes = [(64, 128, 4, 4), (128, 64, 4, 4), (128, 32, 4, 8), (128, 128, 8, 3), (256, 64, 8, 3), (32, 128, 4, 6)]
    for split, (columns, depth, warps, stages) in ((split, shape) for split in splits for shape in shapes):
        tiles = Tiles(columns, depth, split, warps, stages)
        found += [tiles, dataclasses.replace(tiles, swapped=True)]
    return list(dict.fromkeys(found))


def made(kind: Map, rows: int, key: jax.Array) -> tuple[jax.Array, list[tuple[jax.Array, ...]]]:
    """Rows and the weights of every copy, of a size that keeps products near 1."""

    @jax.jit
    def normal(key: jax.Array) -> tuple[jax.Array, ...]:
        kernels = [jax.random.normal(k, kind.shape, jnp.bfloat16) for k in jax.random.split(key, kind.kernels)]
        bias = [jax.random.normal(key, (kind.outputs,), jnp.bfloat16)] if kind.bias else []
        return *(kernel * kind.inputs**-0.5 for kernel in kernels), *bias

    x = jax.random.normal(key, (rows, kind.inputs), jnp.bfloat16)
    return x, [normal(k) for k in jax.random.split(key, kind.copies)]


Copies = list[tuple[jax.Array, ...]]
Run = Callable[[jax.Array, Copies], tuple[jax.Array, jax.Array]]


def passes_of(kind: Map) -> int:
    """Over all copies in a run."""
    return max(1, LOOP_BYTES // (kind.bytes * kind.copies))


def looped(kind: Map, function: Callable[..., jax.Array], x: jax.Array, copies: Copies) -> Run:
    """A compiled run: products one after the other, and the first of them as a result."""

    def run(x: jax.Array, copies: Copies) -> tuple[jax.Array, jax.Array]:
        def once(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x, total = state
            found = [function(x, *weights) for weights in copies]
            # All of them are wanted, whole: no product may be left out or cut down to what is read.
            found = jax.lax.optimization_barrier([y * 1.5 + 1.0 if kind.followed else y for y in found])
            total = total + sum(y[0, 0].astype(jnp.float32) for y in found)
            return x.at[0, 0].add((total * 1e-9).astype(x.dtype)), total

        _, total = jax.lax.fori_loop(0, passes_of(kind), once, (x, jnp.zeros(())))
        return function(x, *copies[0]), total

    return jax.jit(run).lower(x, copies).compile()


def seconds_of(kind: Map, run: Run, x: jax.Array, copies: Copies) -> float:
    """Of one product, the median of the runs."""
    jax.block_until_ready(run(x, copies))
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        jax.block_until_ready(run(x, copies))
        times.append(time.perf_counter() - start)
    return statistics.median(times) / (passes_of(kind) * kind.copies + 1)


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
    """Largest deviation from float32 products in NumPy of some columns, as a share of the largest of those."""
    columns = slice(-128, None)
    kernels, bias = weights[: kind.kernels], weights[kind.kernels :]
    own = [np.asarray(w[columns].T if kind.table else w[:, columns], np.float32) for w in kernels]
    products = [np.asarray(x, np.float32) @ w for w in own]
    if kind.kernels == 2:
        gate, up = products
        expected = gate / (1 + np.exp(-gate)) * up
    else:
        expected = products[0] + (np.asarray(bias[0][columns], np.float32)[None] if bias else 0)
    return float(np.abs(np.asarray(found[:, columns], np.float32) - expected).max() / np.abs(expected).max())


def compare(name: str, rows: int, bandwidth: float, deadline: float) -> None:
    """Prints a line for XLA and for each of the tilings, and at the end the best."""
    kind = MAPS[name]
    x, copies = made(kind, rows, jax.random.key(0))
    best: tuple[float, str] | None = None

    def measure(label: str, compiled: concurrent.futures.Future[Run]) -> None:
        nonlocal best
        try:
            run = compiled.result()
            off = error(kind, run(x, copies)[0], x, copies[0])
            took = seconds_of(kind, run, x, copies)
        except Exception as problem:  # of whatever kind: the next tiling may work
            print(f"{name:7}{rows:4}  {label}: {type(problem).__name__}: {str(problem)[:160]!r}", flush=True)
            return
        rate, note = kind.bytes / took, "" if off < 0.02 else "  WRONG"
        text = f"{name:7}{rows:4} {took * 1e6:8.2f} us {rate / 1e9:7.0f} GB/s {rate / bandwidth:6.1%}  {label}"
        print(f"{text}  off by {off:.1e}{note}", flush=True)
        if not note and (best is None or took < best[0]):
            best = took, text

    with concurrent.futures.ThreadPoolExecutor(max(1, min(16, (os.cpu_count() or 2) - 2))) as pool:
        # XLA's products first and alone: to choose among them it times them.
        plain = pool.submit(looped, kind, kind.xla, x, copies)
        concurrent.futures.wait([plain])
        measure("XLA", plain)
        waiting = {tiles: pool.submit(looped, kind, _with(kind, tiles), x, copies) for tiles in tilings(name, rows)}
        left = max(0.0, (deadline - time.monotonic()) * COMPILING)
        late = concurrent.futures.wait(waiting.values(), timeout=left).not_done
        for compiled in late:
            compiled.cancel()
        concurrent.futures.wait(late)  # nothing is timed while the processor is busy
        for tiles, compiled in waiting.items():
            if compiled.cancelled() or time.monotonic() > deadline:
                print(f"{name:7}{rows:4}  no time for {tiles}", flush=True)
                continue
            measure(_label(tiles), compiled)
    if best is not None:
        print(f"BEST   {best[1]}", flush=True)


def _with(kind: Map, tiles: Tiles) -> Callable[..., jax.Array]:
    return lambda *given: kind.ours(*given, tiles=tiles)


def _label(tiles: Tiles) -> str:
    text = f"{tiles.columns}x{tiles.depth} splits {tiles.splits} warps {tiles.warps} stages {tiles.stages}"
    return text + " swapped" * tiles.swapped + " early" * tiles.early


def main() -> None:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[32])
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
