"""Times a decoder block's decode step on a GPU: XLA's products, ours, mixes of them, and tiles one by one.

    python -m benchmarks.decode_layer [--seconds 90] [--only parts down early]

A run is a loop of steps over distinct layers (3B: 12 of 154 MB, so that no cache helps), attention included, with half
the room written, as `kv_cache.decode` runs it. Variants are compiled side by side, in batches, the most informative
first, and timed while nothing is compiled. Every variant is traced on its own: a line lists the kernels of a layer in
its trace. Its outputs after ONE layer are compared with XLA's from the same input; a chain would amplify roundings.
`--interpret` with small sizes tries the script itself on a CPU. Legend: N prompts, G samples, P prompt length, T room.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.gpu.decode_attention import Tiles as AttentionTiles
from lam_jax.gpu.decode_layer import DecodeLayer
from lam_jax.gpu.panels import Pack
from lam_jax.gpu.row_linear import LEAST
from lam_jax.gpu.tiles import Tiles, candidates, choose_tiles
from lam_jax.nn import kv_cache
from lam_jax.nn.block import DecoderBlock
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.layers import packed
from lam_jax.nn.layout import Layout, laid_out_by
from lam_jax.nn.rope import Rotary, inverse_frequencies
from lam_jax.nn.weight import materialize

BASE = DecodeLayer(None, None, None, None, add_norm=False)  # XLA's products, sums and norms
XLA = DecodeLayer()  # XLA's products in parts
MAPS = ("qkv", "output", "down")
TUNING = threading.Lock()
RUNS = 5
BATCH = 12  # variants compiled side by side


def variants(options: argparse.Namespace) -> dict[str, DecodeLayer]:
    """By name; the first is the reference, the most informative come first."""
    width, hidden, rows = options.width, options.hidden, options.prompts * options.samples
    heads = (options.heads + 2 * options.kv_heads) * options.dim
    shapes = {"qkv": (width, heads, 1), "output": (options.heads * options.dim, width, 1)}
    shapes |= {"gated": (width, hidden, 2), "down": (hidden, width, 1)}
    ours, xla = choose_tiles, XLA
    both = DecodeLayer(qkv=ours, output=ours, gated=ours, down=ours)

    def but(base: DecodeLayer, **fields: Any) -> DecodeLayer:
        return dataclasses.replace(base, **fields)

    found = {
        "XLA": BASE,
        "panels 64": but(both, early=True),
        "panels 64 late": both,
        "panels 64 gated 128": but(both, early=True),
        "panels 64 gated 32": but(both, early=True),
        "panels 128": but(both, early=True),
        "panels 32": but(both, early=True),
        "panels 64, XLA gated": but(both, gated=None, early=True),
        "panels 64 deep": but(both, early=True, gated=Tiles(64, 128, 1, 4, 3), down=Tiles(64, 128, 4, 4, 4)),
        "panels 64 eight warps": but(both, early=True, gated=Tiles(64, 64, 1, 8, 5), down=Tiles(64, 64, 4, 8, 6)),
        "panels 64 down in 8": but(both, early=True, down=Tiles(64, 64, 8, 4, 6)),
        "panels 128 gated, down in 8": but(both, early=True, down=Tiles(128, 64, 8, 4, 6)),
        "XLA, add_norm": but(BASE, add_norm=True),
        "XLA's parts": xla,
        "ours": both,
        "ours, XLA gated": but(both, gated=None),
        "ours, XLA gated, merged qkv": but(both, gated=None, qkv=None),
        "ours early": but(both, early=True),
        "ours, XLA gated, early": but(both, gated=None, early=True),
        "XLA's parts, merged qkv": but(xla, qkv=None),
        "XLA's parts, early attention and norms": but(xla, early=True),
        "XLA's parts, our down": but(xla, down=ours),
        "XLA's parts, our gated": but(xla, gated=ours),
        "XLA's parts, our output": but(xla, output=ours),
        "XLA's parts, our qkv": but(xla, qkv=ours),
    }
    for name, ways in {"down": (4, 16), "output": (2, 8), "qkv": (1, 4)}.items():
        found |= {f"XLA's parts, {name} in {way}": but(xla, **{name: way}) for way in ways}
    for name, more in tilings(name_of=shapes, rows=rows):
        found[f"XLA's parts, {name} {described(more)}"] = but(xla, **{name: more})
    splits = [AttentionTiles(own_splits=2, prompt_splits=4, num_stages=3), AttentionTiles()]
    splits.append(AttentionTiles(own_splits=1, prompt_splits=8, num_stages=2))
    for tiles in splits:
        label = f"{tiles.own_splits}+{tiles.prompt_splits} splits, {tiles.num_stages} stages"
        found[f"XLA's parts, attention {label}"] = but(xla, attention=tiles)
    return found


def tilings(name_of: dict[str, tuple[int, int, int]], rows: int) -> Iterator[tuple[str, Tiles]]:
    """Maps and tiles to try, in turns over the maps."""
    several = {}
    for name, (inputs, outputs, kernels) in name_of.items():
        best = candidates(rows, inputs, outputs, 2, kernels)
        first = best[0]
        tried = [*best[1:4], dataclasses.replace(first, swapped=True), dataclasses.replace(first, warps=8)]
        tried += [dataclasses.replace(first, depth=128, stages=max(2, first.stages // 2))]
        tried += [dataclasses.replace(first, depth=32, stages=8), dataclasses.replace(first, warps=2)]
        several[name] = list(dict.fromkeys(tried))
    for turn in range(8):
        for name in ("down", "gated", "qkv", "output"):
            if turn < len(several[name]):
                yield name, several[name][turn]


def described(tiles: Tiles) -> str:
    """In a few letters."""
    text = f"{tiles.columns}x{tiles.depth} splits {tiles.splits} warps {tiles.warps} stages {tiles.stages}"
    return text + " swapped" * tiles.swapped


@dataclasses.dataclass
class Given:
    """What all variants share."""

    layers: tuple[DecoderBlock, ...]
    x: jax.Array
    rotary: Rotary


def made(options: argparse.Namespace) -> tuple[Given, KVCache]:
    """Random layers, a token's states, and caches whose every position holds something."""
    o, dtype = options, jnp.float32 if options.interpret else jnp.bfloat16
    spec = DecoderBlock.spec(o.width, o.hidden, o.heads, o.kv_heads, o.dim, 1e-6)

    @jax.jit
    def layer(key: jax.Array) -> DecoderBlock:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), materialize(spec, key)).join()

    layers = tuple(layer(jax.random.key(i)) for i in range(o.layers))
    x = jax.random.normal(jax.random.key(1), (o.prompts, o.samples, 1, o.width), dtype)
    angles = jnp.tile((o.prompt + o.room // 2) * inverse_frequencies(o.dim, 1e6), 2)
    cos, sin = (jnp.broadcast_to(y, (o.prompts, o.samples, 1, o.dim)) for y in (jnp.cos(angles), jnp.sin(angles)))
    shape = (o.layers, o.prompts, o.prompt, o.kv_heads, o.dim)
    mask = jnp.arange(o.prompt)[None] >= 7 * jnp.arange(o.prompts)[:, None] % o.prompt

    @jax.jit
    def caches(key: jax.Array) -> KVCache:
        first, second = (jax.random.normal(k, shape, dtype) for k in jax.random.split(key))
        cache = KVCache.create((first, second), mask, o.samples, o.room, split=True)
        keys = jax.random.split(key, 2 * o.layers)
        own = [jax.random.normal(k, cache.key[0].shape, dtype) for k in keys]
        return cache.replace(key=tuple(own[: o.layers]), value=tuple(own[o.layers :]))

    with laid_out_by(layout_of(BASE)):
        cache = caches(jax.random.key(2))
    assert cache.fused
    return Given(layers, x, Rotary(cos, sin)), cache


def layout_of(layer: DecodeLayer) -> Layout:
    """As `choose_layout` has it for a GPU."""
    return Layout(joined=True, apart=2**62, decode_layer=layer)


@dataclasses.dataclass
class Compiled:
    """A variant's programs, and the kernels that its trace has in a layer."""

    chain: Any
    single: Any
    kernels: str
    given: Given


def pack_of(name: str, interpret: bool) -> Pack | None:
    """How the maps of a variant lie: in panels, or as they are."""
    words = name.replace(",", "").split()
    if words[0] != "panels":
        return None
    columns = int(words[1])
    gated = int(words[3]) if words[2:3] == ["gated"] and words[3:4] and words[3].isdigit() else columns
    return Pack(columns, 7 if "XLA gated" in name else gated, 1 if interpret else LEAST, interpret)


def compile_variant(
    name: str, layer: DecodeLayer, given: Given, cache: KVCache, options: argparse.Namespace
) -> Compiled:
    """Functions of its own, or `jax.jit` might take another variant's trace."""
    half, pack = options.room // 2, pack_of(name, options.interpret)
    if pack is not None:
        with laid_out_by(Layout(pack=pack)):
            given = dataclasses.replace(given, layers=jax.jit(lambda layers: tuple(map(packed, layers)))(given.layers))

    def chain(given: tuple, cache: KVCache) -> tuple[jax.Array, KVCache]:
        layers, x, rotary = given

        def step(i: jax.Array, state: tuple[jax.Array, KVCache]) -> tuple[jax.Array, KVCache]:
            y, cache = kv_cache.decode(layers, state[1], state[0], rotary, half + i)
            return y * jnp.asarray(0.05, y.dtype), cache

        return jax.lax.fori_loop(0, options.steps, step, (x, cache))

    def single(given: tuple, cache: KVCache) -> tuple[jax.Array, jax.Array, jax.Array]:
        layers, x, rotary = given
        y, cache = kv_cache.decode(layers, cache, x, rotary, jnp.int32(half))
        return y, cache.key[0][:, half], cache.value[0][:, half]

    with laid_out_by(layout_of(dataclasses.replace(layer, interpret=options.interpret))):
        everything, one = (given.layers, given.x, given.rotary), (given.layers[:1], given.x, given.rotary)
        single_trace = jax.jit(single).trace(one, first_of(cache))
        chain_trace = jax.jit(chain, donate_argnums=1).trace(everything, cache)
    kernels = ", ".join(kernels_of(single_trace.jaxpr.jaxpr))
    # New ways of XLA's are tuned by timing, one after the other.
    own = any(isinstance(way, int) and way != getattr(XLA, name) for name, way in vars(layer).items() if name in MAPS)
    with TUNING if own else contextlib.nullcontext():
        compiled = single_trace.lower().compile()
    return Compiled(chain_trace.lower().compile(), compiled, kernels, given)


def first_of(cache: KVCache) -> KVCache:
    """The first layer's."""
    fields = {name: getattr(cache, name)[:1] for name in ("prompt_key", "prompt_value", "key", "value")}
    return cache.replace(**fields)


def kernels_of(jaxpr: Any) -> Iterator[str]:
    """Pallas kernels of a trace: name, grid, warps and stages."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "pallas_call":
            params = eqn.params["compiler_params"]
            grid = "x".join(map(str, eqn.params["grid_mapping"].grid))
            name = getattr(eqn.params.get("name_and_src_info"), "name", "") or eqn.params.get("name", "kernel")
            yield f"{name} {grid} w{getattr(params, 'num_warps', '?')} s{getattr(params, 'num_stages', '?')}"
            continue
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from kernels_of(inner)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each variant, and the fastest again at the end."""
    options = parsed(arguments)
    began = time.monotonic()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; {vars(options)}", flush=True)
    given, cache = made(options)
    jax.block_until_ready((given.layers, cache))
    names = dict(variants(options))
    if options.only:
        names = {name: way for name, way in names.items() if way == BASE or any(part in name for part in options.only)}
    waiting = list(names)
    # XLA chooses its products by timing them: undisturbed where most variants use them, its choices are kept.
    alone = [name for name in waiting if names[name] in (BASE, XLA)]
    rest = [name for name in waiting if name not in alone]
    batches = [*([name] for name in alone), *(rest[i : i + BATCH] for i in range(0, len(rest), BATCH))]
    expected: list[np.ndarray] | None = None
    times: dict[str, float] = {}
    longest = 0.0
    threads = max(1, min(BATCH, (os.cpu_count() or 2) - 2))
    for batch in batches:
        start = time.monotonic()
        if start - began + longest > options.seconds:
            print(f"no time for {batch}", flush=True)
            continue
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            compiled = {name: pool.submit(compile_variant, name, names[name], given, cache, options) for name in batch}
        print(f"[{time.monotonic() - began:.0f} s] compiled {len(batch)}", flush=True)
        for name, future in compiled.items():
            if (error := future.exception()) is not None:  # tiles that need more than a multiprocessor has
                print(f"{'':>18}{name}: {type(error).__name__}: {str(error)[:160]!r}", flush=True)
                continue
            ready = future.result()
            own = ready.given
            found = ready.single((own.layers[:1], own.x, own.rotary), first_of(cache))
            outputs = [np.asarray(y, np.float32) for y in found]
            expected = outputs if expected is None else expected
            off = max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(outputs, expected, strict=True))
            times[name], cache = seconds_of(ready.chain, own, cache, options)
            note = "" if off < 0.03 else "  WRONG"
            print(f"{times[name] * 1e6:8.2f} us  {off:8.1e}{note}  {name}\n{'':20}{ready.kernels}", flush=True)
        longest = max(longest, time.monotonic() - start)
    print("\nus a layer, the fastest first")
    for name, seconds in sorted(times.items(), key=lambda pair: pair[1])[:12]:
        print(f"{seconds * 1e6:8.2f}  {name}")


def seconds_of(chain: Any, given: Given, cache: KVCache, options: argparse.Namespace) -> tuple[float, KVCache]:
    """Of a layer, the median of the runs."""
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        _, cache = jax.block_until_ready(chain((given.layers, given.x, given.rotary), cache))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]) / options.steps / options.layers, cache


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"prompts": 4, "samples": 8, "width": 2048, "hidden": 11008, "heads": 16, "kv-heads": 2, "dim": 128}
    for name, value in (sizes | {"prompt": 1024, "room": 1024, "layers": 12, "steps": 40}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seconds", type=float, default=90.0, help="no batch begins that would end later")
    parser.add_argument("--only", nargs="*", default=[], help="variants whose names contain one of these")
    parser.add_argument("--interpret", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
