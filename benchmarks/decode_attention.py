"""Attention of a decode step on an NVIDIA GPU: the fused kernels with several `Tiles` beside the plain path.

    python -m benchmarks.decode_attention
    python -m benchmarks.decode_attention --prompts 4 --heads 28 --kv-heads 4 --layers 28

A program decodes a few tokens in all layers, each with caches of its own, so that nothing stays in the chip's cache; a
layer is what lies between the products with weights. Every fused program's outputs are compared with the plain ones'.
It runs on the first GPU; `--interpret` tries the script itself on a CPU, in minutes at the default sizes.
Legend: N prompts, G samples of a prompt, H heads, K kv heads, D head dimension, P prompt length, T room, Y layers.
"""

import argparse
import concurrent.futures
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.gpu.decode_attention import Tiles, decode_attention
from lam_jax.nn import attention as attn
from lam_jax.nn.kv_cache import append
from lam_jax.nn.layout import Layout, laid_out_by
from lam_jax.nn.rope import Rotary, inverse_frequencies

TILES = (
    None,  # what is chosen by the sizes
    Tiles(),
    Tiles(num_stages=2),
    Tiles(num_warps=8),
    Tiles(own_splits=2, prompt_splits=4),
    Tiles(own_splits=2, prompt_splits=4, num_stages=2),
    Tiles(own_splits=3, prompt_splits=4, num_stages=2),
    Tiles(own_splits=3, prompt_splits=8, num_stages=2),
    Tiles(own_splits=2, prompt_splits=8, num_stages=2),
    Tiles(own_splits=1, prompt_splits=4, num_stages=2),
    Tiles(own_splits=1, prompt_splits=2, num_stages=2),
    Tiles(own_splits=2, prompt_splits=4, num_warps=2),
    Tiles(own_splits=4, prompt_splits=8, own_block=32, prompt_block=32, num_stages=3),
    Tiles(own_splits=2, prompt_splits=4, own_block=128, num_stages=2),
    Tiles(own_splits=8, prompt_splits=16, own_block=32, prompt_block=32, num_stages=2),
)
CHAINED = 2  # programs in a timed run: while one computes the next is started


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each number of prompts and each way."""
    options = parsed(arguments)
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}; {vars(options)}")
    for prompts in options.prompts:
        compare(prompts, options)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 32], help="N, one table each")
    for name, value in {"samples": 8, "heads": 16, "kv-heads": 2, "dim": 128, "prompt": 1024, "room": 1024}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--layers", type=int, default=36, help="fewer compile faster; they should fill 100 MB")
    parser.add_argument("--step", type=int, default=512, help="tokens written before the timed ones")
    parser.add_argument("--runs", type=int, default=50, help="of which the median is taken")
    parser.add_argument("--tiles", type=int, nargs="+", default=list(range(len(TILES))), help="numbers in TILES")
    parser.add_argument("--interpret", action="store_true")
    return parser.parse_args(arguments)


def compare(prompts: int, options: argparse.Namespace) -> None:
    """All ways at one number of prompts."""
    fixed, caches = made(prompts, options)
    ways: dict[str, Callable[..., Any]] = {"plain": functools.partial(plain, options.kv_heads)}
    for number in options.tiles:
        ways[f"{number:2d} {described(TILES[number])}"] = functools.partial(
            decode_attention, tiles=TILES[number], interpret=options.interpret
        )
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        compiled = {name: pool.submit(compile_way, way, fixed, caches) for name, way in ways.items()}
        concurrent.futures.wait(compiled.values())
    item = caches[0][0].dtype.itemsize
    read = 2 * item * options.kv_heads * options.dim * prompts
    read *= options.prompt + options.samples * (options.step + tokens_of(prompts) // 2)
    print(f"\nN={prompts}: {read / 1e6:.1f} MB a layer; compiled in {time.perf_counter() - start:.1f} s")
    print(f"{'us a layer':>10} {'GB/s':>7} {'largest difference':>18}  tiles")
    expected = None
    for name, future in compiled.items():
        if (error := future.exception()) is not None:  # tiles that need more memory than a multiprocessor has
            print(f"{'':>37}  {name}: {str(error).splitlines()[0][:100]}")
            continue
        program = future.result()
        own = caches if name != "plain" else turned(caches)
        given = fixed if name != "plain" else (*fixed[:2], [x.swapaxes(-1, -2) for x in fixed[2]], *fixed[3:])
        step = jnp.int32(options.step)
        outputs, own = jax.block_until_ready(program(given, own, step))
        outputs = [np.asarray(y.astype(jnp.float32)) for y in outputs]
        expected = outputs if expected is None else expected
        difference = max(float(abs(y - z).max()) for y, z in zip(outputs, expected, strict=True))
        seconds = []
        for _ in range(options.runs):
            start = time.perf_counter()
            for _ in range(CHAINED):
                _, own = program(given, own, step)
            jax.block_until_ready(own)
            seconds.append((time.perf_counter() - start) / CHAINED / tokens_of(prompts) / options.layers)
        if name != "plain":
            caches = own
        median = statistics.median(seconds)
        print(f"{median * 1e6:10.2f} {read / median / 1e9:7.0f} {difference:18.5f}  {name}", flush=True)


def tokens_of(prompts: int) -> int:
    """Tokens of a program: milliseconds of work, so that starting it does not count."""
    return max(32 // prompts, 1)


def described(tiles: Tiles | None) -> str:
    """What differs from `Tiles()`."""
    if tiles is None:
        return "chosen"
    changed = {name: value for name, value in vars(tiles).items() if value != getattr(Tiles(), name)}
    return ", ".join(f"{name}={value}" for name, value in changed.items()) or "Tiles()"


def made(prompts: int, options: argparse.Namespace) -> tuple[tuple, tuple]:
    """What stays, (joined projections, rotary, prompt keys, prompt values, mask), and the own caches; lists of Y."""
    o, dtype = options, jnp.float32 if options.interpret else jnp.bfloat16
    lead = (prompts, o.samples)

    @jax.jit
    def normal(number: jax.Array, like: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), number), like.shape, like.dtype)

    def layers(number: int, *shape: int) -> list[jax.Array]:
        return [normal(jnp.int32(number * o.layers + i), jnp.zeros(shape, dtype)) for i in range(o.layers)]

    qkv = layers(0, *lead, 1, (o.heads + 2 * o.kv_heads) * o.dim)
    angles = jnp.tile((o.prompt + o.step) * inverse_frequencies(o.dim, 1e6), 2)
    rotary = jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, 1, o.dim)), Rotary(jnp.cos(angles), jnp.sin(angles)))
    shared = (layers(i, prompts, o.kv_heads, o.prompt, o.dim) for i in (1, 2))
    mask = jnp.arange(o.prompt)[None] >= 7 * jnp.arange(prompts)[:, None] % o.prompt
    own = tuple(layers(i, prompts * o.samples * o.kv_heads, o.room, o.dim) for i in (3, 4))
    return (qkv, rotary, *shared, mask), own


def turned(caches: tuple) -> tuple:
    """The own caches, copied, keys as the plain path reads them."""
    return [x.swapaxes(-1, -2).copy() for x in caches[0]], [x.copy() for x in caches[1]]


def plain(
    kv_heads: int,
    qkv: jax.Array,
    rotary: Rotary,
    prompt_key: jax.Array,
    prompt_value: jax.Array,
    prompt_mask: jax.Array,
    key: jax.Array,
    value: jax.Array,
    step: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a layer of `kv_cache.decode` does without a fused attention."""
    dim = value.shape[-1]
    width = qkv.shape[-1] - 2 * kv_heads * dim
    split = jnp.split(qkv, (width, width + kv_heads * dim), axis=-1)
    q, k, v = (x.reshape(*x.shape[:-1], -1, dim) for x in split)
    q, k = rotary(q), rotary(k)
    key, value = append(key, value, k, v, step)
    keep = jnp.broadcast_to(jnp.arange(value.shape[-2]) <= step, (*q.shape[:3], value.shape[-2]))
    shared = attn.cached_shared_part(q, prompt_key, prompt_value, prompt_mask)
    own = attn.cached_part(q, key, value, keep, kv_heads)
    return attn.finish(attn.merge(shared, own), q.dtype).reshape(*qkv.shape[:-1], -1), key, value


def compile_way(way: Callable[..., Any], fixed: tuple, caches: tuple) -> Callable[..., Any]:
    """Some tokens in all layers: (fixed, caches, step) to each layer's last outputs and the caches."""
    is_plain = getattr(way, "func", None) is plain
    if is_plain:
        fixed, caches = jax.eval_shape(
            lambda fixed, caches: ((*fixed[:2], [x.swapaxes(-1, -2) for x in fixed[2]], *fixed[3:]), turned(caches)),
            fixed,
            caches,
        )

    def program(fixed: tuple, caches: tuple, step: jax.Array) -> tuple[list[jax.Array], tuple]:
        qkv, rotary, prompt_keys, prompt_values, mask = fixed

        def token(i: jax.Array, carry: tuple) -> tuple:
            _, keys, values = carry
            layers = zip(qkv, prompt_keys, prompt_values, keys, values, strict=True)
            done = [way(x, rotary, pk, pv, mask, key, value, step + i) for x, pk, pv, key, value in layers]
            return tuple(list(part) for part in zip(*done, strict=True))

        width = qkv[0].shape[-1] - 2 * prompt_values[0].shape[1] * prompt_values[0].shape[-1]
        outputs = [jnp.zeros((*x.shape[:-1], width), x.dtype) for x in qkv]
        outputs, keys, values = jax.lax.fori_loop(0, tokens_of(qkv[0].shape[0]), token, (outputs, *caches))
        return outputs, (keys, values)

    with laid_out_by(Layout(joined=True)):
        return jax.jit(program, donate_argnums=1).lower(fixed, caches, jnp.int32(0)).compile()


if __name__ == "__main__":
    main()
