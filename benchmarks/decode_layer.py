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
import dataclasses
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.gpu.decode_attention import Tiles as AttentionTiles
from lam_jax.gpu.decode_layer import DecodeLayer
from lam_jax.gpu.tiles import Tiles, candidates
from lam_jax.nn import kv_cache
from lam_jax.nn.block import DecoderBlock
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.layout import Layout, laid_out_by
from lam_jax.nn.rope import Rotary, inverse_frequencies
from lam_jax.nn.weight import materialize

XLA = DecodeLayer(None, None, None, add_norm=False)  # its products, sums and norms
OURS = DecodeLayer()
MAPS = ("qkv", "output", "down")
RUNS = 5
BATCH = 12  # variants compiled side by side


def variants(options: argparse.Namespace) -> dict[str, DecodeLayer]:
    """By name; the first is the reference, the most informative come first."""
    found = {
        "XLA": XLA,
        "ours": OURS,
        "ours, early": dataclasses.replace(OURS, early=True),
        "XLA, add_norm": dataclasses.replace(XLA, add_norm=True),
    }
    found |= {f"ours, XLA's {name}": dataclasses.replace(OURS, **{name: None}) for name in MAPS}
    found |= {
        f"ours, {name} {described(tiles)}": dataclasses.replace(OURS, **{name: tiles})
        for name, tiles in tilings(options)
    }
    splits = [AttentionTiles(own_splits=2, prompt_splits=4, num_stages=3), AttentionTiles()]
    splits.append(AttentionTiles(own_splits=1, prompt_splits=8, num_stages=2))
    for tiles in splits:
        label = f"{tiles.own_splits}+{tiles.prompt_splits} splits, {tiles.num_stages} stages"
        found[f"ours, attention {label}"] = dataclasses.replace(OURS, attention=tiles)
    return found


def tilings(options: argparse.Namespace) -> Iterator[tuple[str, Tiles]]:
    """Maps and tiles to try, in turns over the maps."""
    width, hidden, rows = options.width, options.hidden, options.prompts * options.samples
    heads = (options.heads + 2 * options.kv_heads) * options.dim
    shapes = {"down": (hidden, width), "qkv": (width, heads), "output": (options.heads * options.dim, width)}
    several = {}
    for name, (inputs, outputs) in shapes.items():
        first, *others = candidates(rows, inputs, outputs, 2)
        tried = [*others[:3], dataclasses.replace(first, swapped=True), dataclasses.replace(first, warps=8)]
        tried += [dataclasses.replace(first, depth=128, stages=max(2, first.stages // 2))]
        tried += [dataclasses.replace(first, depth=32, stages=8), dataclasses.replace(first, warps=2)]
        several[name] = list(dict.fromkeys(tried))
    for turn in range(8):
        for name, tried in several.items():
            if turn < len(tried):
                yield name, tried[turn]


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

    with laid_out_by(layout_of(XLA)):
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


def compile_variant(layer: DecodeLayer, given: Given, cache: KVCache, options: argparse.Namespace) -> Compiled:
    """Functions of its own, or `jax.jit` might take another variant's trace."""
    half = options.room // 2

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
    return Compiled(chain_trace.lower().compile(), single_trace.lower().compile(), kernels)


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
        names = {name: way for name, way in names.items() if way == XLA or any(part in name for part in options.only)}
    waiting = list(names)
    # XLA chooses its products by timing them: undisturbed, and its choices are kept.
    batches = [waiting[:1], *(waiting[i : i + BATCH] for i in range(1, len(waiting), BATCH))]
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
            compiled = {name: pool.submit(compile_variant, names[name], given, cache, options) for name in batch}
        print(f"[{time.monotonic() - began:.0f} s] compiled {len(batch)}", flush=True)
        for name, future in compiled.items():
            if (error := future.exception()) is not None:  # tiles that need more than a multiprocessor has
                print(f"{'':>18}{name}: {type(error).__name__}: {str(error)[:160]!r}", flush=True)
                continue
            ready = future.result()
            found = ready.single((given.layers[:1], given.x, given.rotary), first_of(cache))
            outputs = [np.asarray(y, np.float32) for y in found]
            expected = outputs if expected is None else expected
            off = max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(outputs, expected, strict=True))
            times[name], cache = seconds_of(ready.chain, given, cache, options)
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
