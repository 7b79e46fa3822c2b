"""The fused attention of a decode step, interpreted on a CPU, against the formula in NumPy; and a rollout with it.

Legend: N prompts, G samples, H heads, K kv heads, D head dimension, P prompt length, T room.
"""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.gpu.decode_attention import Tiles, decode_attention
from lam_jax.gpu.decode_layer import DecodeLayer
from lam_jax.gpu.parts import Parts
from lam_jax.latent.agent import Reading
from lam_jax.nn import kv_cache
from lam_jax.nn.layout import PLAIN, Layout
from lam_jax.nn.rope import Rotary
from lam_jax.rollout.actions import LatentActions, TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import jitted
from lam_jax.rollout.sampling import SamplingConfig
from tests import tiny
from tests.tiny import Row, make_batch, words

SMALL = Tiles(prompt_block=16, prompt_splits=2, own_block=16, own_splits=2)


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes as in the legend; `first` is where each prompt's real tokens begin."""

    first: tuple[int, ...]
    G: int
    H: int
    K: int
    P: int
    T: int
    step: int
    tiles: Tiles | None = SMALL
    D: int = 8
    dtype: str = "float32"


CASES = {
    "R=8": Case((0, 11), 3, 16, 2, 32, 32, 17),
    "R=8, bfloat16": Case((0, 11), 3, 16, 2, 32, 32, 17, dtype="bfloat16", D=32),
    "R=7": Case((3, 20, 0), 2, 14, 2, 32, 48, 33),
    "R=7, bfloat16": Case((3, 0), 2, 7, 1, 32, 48, 33, dtype="bfloat16"),
    "R=1": Case((5,), 2, 3, 3, 32, 32, 6),
    "the first step": Case((0, 32), 2, 4, 2, 32, 32, 0),
    "the first step of a block": Case((0, 4), 2, 4, 2, 32, 32, 16),
    "the last step": Case((0, 4), 2, 4, 2, 32, 32, 31),
    "a prompt of padding only": Case((32, 2), 2, 4, 2, 32, 32, 9),
    "no whole blocks, the last step": Case((9, 36), 2, 4, 2, 37, 21, 20),
    "more splits than blocks": Case((1,), 2, 4, 2, 37, 21, 18, Tiles(16, 9, 16, 7)),
    "an empty last split": Case((1, 5), 1, 4, 2, 80, 80, 75, Tiles(16, 4, 16, 4)),
    "several tiles of queries": Case((0, 3), 5, 14, 2, 32, 32, 10, dataclasses.replace(SMALL, rows=16)),
    "chosen tiles, blocks larger than the caches": Case((0, 3), 2, 4, 2, 10, 10, 7, None),
}


@dataclasses.dataclass
class Given:
    """Float32 arrays whose values the case's dtype holds."""

    qkv: np.ndarray  # [N, G, 1, (H + 2 K) D]
    angles: np.ndarray  # [N, G, D / 2]
    prompt_key: np.ndarray  # [N, K, P, D]
    prompt_value: np.ndarray
    mask: np.ndarray  # [N, P]
    key: np.ndarray  # [N * G * K, T, D]; junk from `step` on
    value: np.ndarray


def given(case: Case) -> Given:
    rng = np.random.default_rng(0)

    def draw(*shape):
        return np.asarray(jnp.asarray(rng.normal(size=shape), case.dtype).astype(jnp.float32))

    N, G, K, D = len(case.first), case.G, case.K, case.D
    own = (N * G * K, case.T, D)
    return Given(
        qkv=2 * draw(N, G, 1, (case.H + 2 * K) * D),
        angles=rng.normal(size=(N, G, D // 2)).astype(np.float32),
        prompt_key=draw(N, K, case.P, D),
        prompt_value=draw(N, K, case.P, D),
        mask=np.arange(case.P) >= np.array(case.first)[:, None],
        key=draw(*own),
        value=draw(*own),
    )


def rounded(x, dtype):
    return np.asarray(jnp.asarray(x, jnp.float32).astype(dtype).astype(jnp.float32), np.float64)


def rotated(x, angles, dtype):
    """RoPE's definition: pair (i, i + D / 2) turns by angle i. Sines and cosines have the dtype's precision."""
    cos, sin = rounded(np.cos(angles), dtype), rounded(np.sin(angles), dtype)
    one, two = np.split(np.asarray(x, np.float64), 2)
    return rounded(np.concatenate([one * cos - two * sin, two * cos + one * sin]), dtype)


def expected(case: Case, x: Given) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sample and head at a time in float64: y [N, G, 1, H D] and the caches with the new token."""
    key, value = (y.astype(np.float64) for y in (x.key, x.value))
    y = np.zeros((len(case.first), case.G, 1, case.H, case.D))
    for n, g in np.ndindex(y.shape[:2]):
        vectors = x.qkv[n, g, 0].reshape(-1, case.D)
        for h in range(case.H):
            kv = h // (case.H // case.K)
            at = (n * case.G + g) * case.K + kv
            query = rotated(vectors[h], x.angles[n, g], case.dtype)
            key[at, case.step] = rotated(vectors[case.H + kv], x.angles[n, g], case.dtype)
            value[at, case.step] = vectors[case.H + case.K + kv]
            seen = x.mask[n]
            keys = np.concatenate([x.prompt_key[n, kv][seen], key[at, : case.step + 1]])
            values = np.concatenate([x.prompt_value[n, kv][seen], value[at, : case.step + 1]])
            scores = keys @ query / np.sqrt(case.D)
            weights = np.exp(scores - scores.max())
            y[n, g, 0, h] = weights @ values / weights.sum()
    return y.reshape(*y.shape[:3], -1), key, value


def arguments(case: Case, x: Given) -> tuple:
    angles = jnp.asarray(np.concatenate([x.angles, x.angles], axis=-1)[:, :, None])
    prompt = (jnp.asarray(y, case.dtype) for y in (x.prompt_key, x.prompt_value))
    own = (jnp.asarray(y, case.dtype) for y in (x.key, x.value))
    rotary = Rotary(jnp.cos(angles), jnp.sin(angles))
    return jnp.asarray(x.qkv, case.dtype), rotary, *prompt, jnp.asarray(x.mask), *own, jnp.int32(case.step)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_formula(case):
    x = given(case)
    outputs = decode_attention(*arguments(case, x), interpret=True, tiles=case.tiles)
    assert [out.dtype for out in outputs] == [jnp.dtype(case.dtype)] * 3
    y, key, value = (np.asarray(out.astype(jnp.float32)) for out in outputs)
    wanted, wanted_key, wanted_value = expected(case, x)
    exact = case.dtype == "float32"
    assert abs(wanted).max() > 0.5
    np.testing.assert_allclose(y, wanted, atol=2e-6 if exact else 0.02, rtol=1e-6 if exact else 2**-7)
    np.testing.assert_array_equal(value, wanted_value)
    others = np.arange(case.T) != case.step
    np.testing.assert_array_equal(key[:, others], wanted_key[:, others])
    # Rounded once in either dtype, but a sum in float32 may lie on the other side of a half.
    np.testing.assert_allclose(key, wanted_key, rtol=0 if exact else 2**-7, atol=2e-6 if exact else 1e-6)


@pytest.mark.parametrize("name", ["R=8", "R=8, bfloat16", "R=7", "several tiles of queries"])
def test_adds_up_the_projections_parts_and_their_bias(name):
    """The product is rounded first, then its sum with the bias."""
    case = CASES[name]
    x = given(case)
    qkv, *rest = arguments(case, x)
    rng = np.random.default_rng(1)
    some = rng.normal(size=(2, *qkv.shape)).astype(np.float32)
    sums = np.concatenate([some, x.qkv[None] - some.sum(0)[None]]).astype(np.float32)
    bias = rounded(rng.normal(size=qkv.shape[-1]), case.dtype)
    x.qkv = rounded(rounded(sums.astype(np.float64).sum(0), case.dtype) + bias, case.dtype)
    wanted = expected(case, x)
    parts = Parts(jnp.asarray(sums), jnp.asarray(bias, case.dtype))
    outputs = decode_attention(parts, *rest, interpret=True, tiles=case.tiles)
    exact = case.dtype == "float32"
    for out, want, loose in zip(outputs, wanted, (True, False, False), strict=True):
        tolerance = 2e-5 if exact else 0.03
        np.testing.assert_allclose(
            out.astype(jnp.float32), want, atol=tolerance if loose or exact else 1e-3, rtol=2**-7
        )
        assert out.dtype == jnp.dtype(case.dtype)


def test_two_kernels_of_which_the_second_writes_the_caches_in_place():
    case = CASES["R=8"]
    jaxpr = jax.make_jaxpr(functools.partial(decode_attention, tiles=case.tiles))(*arguments(case, given(case)))
    calls = [eqn for eqn in jaxpr.eqns[0].params["jaxpr"].eqns if eqn.primitive.name == "pallas_call"]
    assert [len(eqn.params["input_output_aliases"]) for eqn in calls] == [0, 2]


@pytest.mark.parametrize(("name", "unrolled"), [("latent", 2**40), ("token", 2**40), ("token", 0)])
def test_a_rollout_with_it_is_the_plain_one(name, unrolled, monkeypatch):
    """Long enough for several blocks; the last prompt is padding only. Heads of 8 are refused but for tests."""
    monkeypatch.setattr(kv_cache, "_fits", lambda dim: True)
    agent = tiny.agent()
    space = LatentActions(agent, Reading()) if name == "latent" else TokenActions(agent.backbone)
    prompts = make_batch([Row(words(5), ((1, 4, 4),)), Row(words(9, seed=1)), Row(())], 12, left=True)
    config = RolloutConfig(samples=2, length=19, segment=5, sampling=SamplingConfig(top_k=4), stop=False)
    ids = jnp.arange(6, dtype=jnp.int32).reshape(3, 2)
    fused = DecodeLayer(attention=Tiles(8, 2, 8, 2), interpret=True)
    layouts = PLAIN, Layout(joined=True, unrolled=unrolled, decode_layer=fused)
    plain, ours = (
        jitted(space, prompts, ids, jax.random.key(3), config=config, mesh=None, layout=layout) for layout in layouts
    )
    np.testing.assert_array_equal(ours.tokens[:2], plain.tokens[:2])
    np.testing.assert_array_equal(ours.mask, plain.mask)
    np.testing.assert_allclose(ours.logps[:2], plain.logps[:2], atol=1e-5)
    np.testing.assert_allclose(ours.hidden[:2], plain.hidden[:2], atol=1e-4)
    assert np.isfinite(ours.hidden).all()


def test_tiles_are_chosen_by_the_sizes_and_impossible_ones_refused():
    measured = Tiles(own_splits=2, prompt_splits=4, num_stages=2)
    assert Tiles.suited(4, 8, 2) == Tiles.suited(32, 8, 2) == measured
    assert Tiles.suited(1, 8, 2).own_splits == 8
    # In float32 a block of twice the bytes: as it is on an H100, a smaller one on an Ada card.
    assert measured.within(64, 128, 2, 99 * 2**10) == measured.within(64, 128, 4, 227 * 2**10) == measured
    assert measured.within(64, 128, 4, 99 * 2**10) == dataclasses.replace(measured, own_block=32, prompt_block=32)
    with pytest.raises(ValueError, match=r"Tiles\.own_splits must be at least 1, got 0"):
        Tiles(own_splits=0)
    with pytest.raises(ValueError, match=r"Tiles\.prompt_block must be a power of two, got 48"):
        Tiles(prompt_block=48)
    with pytest.raises(ValueError, match=r"expected joined=True, got False"):
        Layout(decode_layer=DecodeLayer())


def test_pallas_is_imported_only_where_it_is_used():
    program = "import sys, lam_jax.gpu.decode_attention; sys.exit('jax.experimental.pallas' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
