"""Packed maps equal the plain ones, and are used where they pay."""

import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.cpu import packed_linear
from lam_jax.cpu.packed_linear import COLUMNS, LEAST, PackedLinear, by_xla, in_panels, pack, packed_product
from lam_jax.latent.agent import Reading
from lam_jax.nn.layers import GatedMLP, Linear, packed
from lam_jax.nn.layout import PLAIN, Layout, laid_out_by
from lam_jax.nn.stored import stored
from lam_jax.nn.weight import materialize
from lam_jax.rollout.actions import LatentActions, TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import jitted
from lam_jax.rollout.sampling import SamplingConfig
from tests import tiny
from tests.tiny import Row, make_batch, words

INPUTS, OUTPUTS = 256, LEAST // 256


def made(specs):
    return materialize(specs, jax.random.key(0))


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


# Only a machine without a compiler may skip: a kernel that no longer compiles must fail.
needs_kernel = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler")


@needs_kernel
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 21])
@pytest.mark.parametrize("outputs", [32, 96, 4128])
def test_kernel_equals_xla(rows, outputs):
    x, kernel = normal(rows, 40), normal(40, outputs)
    assert packed_linear.has_kernel()
    panels = in_panels(kernel)
    np.testing.assert_allclose(by_xla(x, panels), x @ kernel, atol=1e-4)
    product = jax.jit(packed_product)
    np.testing.assert_allclose(product(x, panels), x @ kernel, atol=1e-4)


@needs_kernel
@pytest.mark.parametrize("rows", [1, 7, 8, 21])
@pytest.mark.parametrize("outputs", [32, 4128])
@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_kernel_of_fewer_bits_equals_the_product_of_the_numbers_that_are_stood_for(storage, rows, outputs):
    x, kernel = normal(rows, 40), normal(40, outputs) * jnp.exp(normal(outputs))[None]
    held = stored(Linear(kernel), storage)
    meant = np.asarray(held.kernel.astype(jnp.float32), np.float64)  # in int8 all of -127 to 127
    if storage == "int8":
        assert {-127, 127} <= set(np.unique(meant))
        scale = np.abs(np.asarray(kernel)).max(axis=0) / 127
        np.testing.assert_allclose(meant * scale, kernel, atol=1.001 * scale.max() / 2)
        meant = meant * scale
    assert packed_linear.has_kernel()
    ours = PackedLinear.create(held)
    assert ours.panels.dtype == held.kernel.dtype
    program = jax.jit(lambda map, x: map(x))
    assert "packed_product" in program.lower(ours, x).as_text()
    expected = np.asarray(x, np.float64) @ meant
    for map in (ours, held):
        np.testing.assert_allclose(program(map, x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@needs_kernel
def test_products_side_by_side_share_the_threads():
    """Many independent products of several chunks at once: all right, none waits for ever."""
    assert packed_linear.has_kernel()
    x, kernels = normal(8, 256), [normal(256, 2048) + i for i in range(24)]
    found = jax.jit(lambda x, ws: [packed_product(x, w) for w in ws])(x, [in_panels(w) for w in kernels])
    for y, kernel in zip(found, kernels, strict=True):
        np.testing.assert_allclose(y, x @ kernel, atol=2e-3)


@needs_kernel
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lead", [(), (3,), (2, 4, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_equals_the_plain_map(bias, lead, dtype):
    linear = made(Linear.spec(INPUTS, OUTPUTS, (None, None), bias))
    linear = linear.replace(bias=jnp.arange(float(OUTPUTS))) if bias else linear
    x = normal(*lead, INPUTS).astype(dtype)
    converted = pack(linear)
    assert converted is not None
    assert converted.inputs == INPUTS
    assert converted.panels.shape == (OUTPUTS // COLUMNS, INPUTS, COLUMNS)
    assert converted(x).shape == (*lead, OUTPUTS)
    assert converted(x).dtype == dtype
    tolerance = {"atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2**-7, "atol": 0.05}
    np.testing.assert_allclose(converted(x).astype(jnp.float32), linear(x).astype(jnp.float32), **tolerance)


@needs_kernel
def test_a_module_keeps_maps_that_do_not_fit():
    mlp = made(GatedMLP.spec(INPUTS, OUTPUTS))
    mlp = mlp.replace(up=Linear(mlp.up.kernel.astype(jnp.bfloat16)))
    with laid_out_by(Layout(pack=pack)):
        converted = packed(mlp)
    assert [type(m) for m in (converted.gate, converted.up, converted.down)] == [PackedLinear, Linear, PackedLinear]
    assert packed(mlp) is mlp  # outside
    for shape in ((INPUTS, OUTPUTS + 1), (INPUTS - 1, OUTPUTS)):  # no whole panels; too small
        assert pack(Linear(jnp.ones(shape))) is None
        assert pack(stored(Linear(jnp.ones(shape)), "int8")) is None
    np.testing.assert_allclose(converted(jnp.ones((5, INPUTS))), mlp(jnp.ones((5, INPUTS))), atol=1e-5)


@needs_kernel
@pytest.mark.parametrize(
    ("name", "weights"), [("latent", "same"), ("token", "same"), ("latent", "int8"), ("latent", "bfloat16")]
)
def test_a_rollout_from_packed_weights_is_the_plain_one(name, weights, monkeypatch):
    """Maps as small as these are else left as they are."""
    assert packed_linear.has_kernel()
    monkeypatch.setattr(packed_linear, "LEAST", 1)
    agent = tiny.agent()
    space = LatentActions(agent, Reading()) if name == "latent" else TokenActions(agent.backbone)
    prompts = make_batch([Row(words(5), ((1, 4, 4),)), Row(words(9, seed=1))], 12, left=True)
    sampling = SamplingConfig(top_k=4)
    config = RolloutConfig(samples=2, length=5, segment=5, sampling=sampling, stop=False, weights=weights)
    given = (space, prompts, jnp.arange(4, dtype=jnp.int32).reshape(2, 2), jax.random.key(3))
    # A function of its own: no program is found that was made when little was packed.
    layouts = PLAIN, Layout(True, 2**40, pack=lambda linear: pack(linear))
    programs = [jitted.lower(*given, config=config, mesh=None, layout=layout) for layout in layouts]
    assert ["packed_product" in program.as_text() for program in programs] == [False, True]
    kind = {"same": "xf32", "int8": "xi8", "bfloat16": "xbf16"}[weights]
    calls = [line for line in programs[1].as_text().splitlines() if "packed_product" in line]
    # Of both blocks query, key and value, output and down (48 columns are no whole panels), and the head.
    # The maps of the policy and of the merge stay in float32.
    held = [line for line in calls if f"{COLUMNS}{kind}>" in line]
    every = 7 if name == "token" else 15
    assert (len(held), len(calls)) == (every if weights == "same" else 7, every)
    plain, ours = (program.compile()(*given) for program in programs)
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    np.testing.assert_allclose(ours.logps, plain.logps, atol=1e-5)
    np.testing.assert_allclose(ours.hidden, plain.hidden, atol=1e-4)


@pytest.fixture
def commands(monkeypatch):
    """The compilers' commands, none of which is run: each fails."""
    found = []

    def run(command, **_):
        found.append(command)
        return subprocess.CompletedProcess(command, 1, "", "not run")

    monkeypatch.setattr(packed_linear.subprocess, "run", run)
    monkeypatch.setattr(packed_linear.shutil, "which", lambda name: f"/bin/{name}" if name in PROGRAMS else None)
    return found


PROGRAMS = ("cc", "gcc", "ccache", "my cc", "env")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, ["/bin/cc"]),
        ("", ["/bin/cc"]),
        ("  ", ["/bin/cc"]),
        ("gcc", ["/bin/gcc"]),
        ("ccache gcc", ["/bin/ccache", "gcc"]),
        ("gcc -m64 -DNAME='a b'", ["/bin/gcc", "-m64", "-DNAME=a b"]),
        ("CCACHE_DIR=/c A=1 ccache gcc", ["/bin/env", "CCACHE_DIR=/c", "A=1", "ccache", "gcc"]),
        ("'my cc' -O1", ["/bin/my cc", "-O1"]),
        ("my cc", ["/bin/my cc"]),
    ],
)
def test_cc_is_split_as_a_shell_does(monkeypatch, commands, named, expected):
    monkeypatch.delenv("CC", raising=False)
    if named is not None:
        monkeypatch.setenv("CC", named)
    assert not packed_linear.has_kernel.__wrapped__()
    ((*command,),) = commands
    assert command[: len(expected)] == expected
    assert command[len(expected)] == "-O3"


@pytest.mark.parametrize("named", ["no-such-cc", "no-such-cc -m64", "gcc 'never closed"])
def test_a_compiler_that_is_not_there_is_said(monkeypatch, commands, caplog, named):
    monkeypatch.setenv("CC", named)
    assert not packed_linear.has_kernel.__wrapped__()
    assert not commands
    assert "no C compiler was found" in caplog.text


def test_nowhere_to_compile_is_slower_and_no_error(monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(packed_linear.tempfile, "TemporaryDirectory", refuse)
    assert not packed_linear.has_kernel.__wrapped__()
    assert "could not be run" in caplog.text


@pytest.mark.parametrize(
    ("compiler", "reason"), [("no-such-cc", "no C compiler"), ("false", "false failed"), ("true", "cannot be loaded")]
)
def test_without_a_compiler_there_is_no_kernel_and_a_warning_says_why(monkeypatch, caplog, compiler, reason):
    monkeypatch.setenv("CC", compiler)
    # Not the cached answer; nor may the cache be emptied: a process can register the kernel once only.
    assert not packed_linear.has_kernel.__wrapped__()
    assert reason in caplog.text
    assert "Install gcc or clang" in caplog.text
