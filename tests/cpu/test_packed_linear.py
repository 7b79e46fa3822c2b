"""Maps in panels equal the plain ones, and are used where they pay."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.cpu import packed_linear as panels
from lam_jax.cpu.packed_linear import LEAST, PanelLinear, in_panels
from lam_jax.nn.layers import GatedMLP, Linear
from lam_jax.nn.weight import materialize

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
    assert panels.has_kernel()
    made_of = panels.panels(kernel)
    np.testing.assert_allclose(panels.by_xla(x, made_of), x @ kernel, atol=1e-4)
    product = jax.jit(panels.panel_product)
    np.testing.assert_allclose(product(x, made_of), x @ kernel, atol=1e-4)


@needs_kernel
def test_products_side_by_side_share_the_threads():
    """Many independent products of several chunks at once: all right, none waits for ever."""
    assert panels.has_kernel()
    x, kernels = normal(8, 256), [normal(256, 2048) + i for i in range(24)]
    found = jax.jit(lambda x, ws: [panels.panel_product(x, w) for w in ws])(x, [panels.panels(w) for w in kernels])
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
    converted = in_panels(linear)
    assert isinstance(converted, PanelLinear)
    assert converted.panels.shape == (OUTPUTS // panels.COLUMNS, INPUTS, panels.COLUMNS)
    assert converted(x).shape == (*lead, OUTPUTS)
    assert converted(x).dtype == dtype
    tolerance = {"atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2**-7, "atol": 0.05}
    np.testing.assert_allclose(converted(x).astype(jnp.float32), linear(x).astype(jnp.float32), **tolerance)


@needs_kernel
def test_a_module_keeps_maps_that_do_not_fit():
    mlp = made(GatedMLP.spec(INPUTS, OUTPUTS))
    mlp = mlp.replace(up=Linear(mlp.up.kernel.astype(jnp.bfloat16)))
    converted = in_panels(mlp)
    assert [type(m) for m in (converted.gate, converted.up, converted.down)] == [PanelLinear, Linear, PanelLinear]
    for shape in ((INPUTS, OUTPUTS + 1), (INPUTS - 1, OUTPUTS)):  # no whole panels; too small
        assert isinstance(in_panels(Linear(jnp.ones(shape))), Linear)
    np.testing.assert_allclose(converted(jnp.ones((5, INPUTS))), mlp(jnp.ones((5, INPUTS))), atol=1e-5)


def test_other_backends_keep_plain_maps(monkeypatch):
    monkeypatch.setattr(panels.jax, "default_backend", lambda: "gpu")
    assert isinstance(in_panels(made(Linear.spec(INPUTS, OUTPUTS, (None, None)))), Linear)


@pytest.mark.parametrize(
    ("compiler", "reason"), [("no-such-cc", "no C compiler"), ("false", "false failed"), ("true", "cannot be loaded")]
)
def test_without_a_compiler_maps_stay_and_a_warning_says_why(monkeypatch, caplog, compiler, reason):
    monkeypatch.setenv("CC", compiler)
    # Not the cached answer; nor may the cache be emptied: a process can register the kernel once only.
    monkeypatch.setattr(panels, "has_kernel", panels.has_kernel.__wrapped__)
    assert isinstance(in_panels(made(Linear.spec(INPUTS, OUTPUTS, (None, None)))), Linear)
    assert reason in caplog.text
    assert "Install gcc or clang" in caplog.text
