"""Which layout programs get on which devices."""

import dataclasses
import importlib
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from lam_jax.cpu.packed_linear import pack
from lam_jax.gpu.attention import fused_attention
from lam_jax.gpu.decode_layer import DecodeLayer
from lam_jax.nn.layout import PLAIN, Layout, layout
from lam_jax.parallel import TRAIN, make_mesh, use
from lam_jax.parallel.choose_layout import EVERY, choose_layout

module = importlib.import_module("lam_jax.parallel.choose_layout")


def mesh_of(platform: str, devices: int) -> Mock:
    """What a layout is chosen by."""
    return Mock(spec=Mesh, size=devices, devices=np.array([SimpleNamespace(platform=platform)] * devices))


@pytest.fixture(params=[True, False], ids=["kernel", "no kernel"])
def kernel(request, monkeypatch):
    monkeypatch.setattr(module, "has_kernel", lambda: request.param)
    return request.param


def test_one_cpu_device_joins_unrolls_and_packs(kernel):
    expected = Layout(joined=True, unrolled=2**25, pack=pack if kernel else None)
    assert choose_layout(None) == choose_layout(make_mesh((1, 1, 1))) == expected


def test_an_accelerator_joins_and_does_not_pack(kernel, monkeypatch):
    expected = Layout(joined=True, unrolled=2**25)
    assert choose_layout(mesh_of("tpu", 1)) == expected
    monkeypatch.setattr(module.jax, "devices", lambda: [SimpleNamespace(platform="tpu")])
    assert choose_layout(None) == expected


def card(capability, here, **facts):
    """A device of an accelerator, and where it is here the first one."""
    client = jax.devices()[0].client if here else object()
    return SimpleNamespace(platform="gpu", compute_capability=capability, client=client, **facts)


def test_one_nvidia_card_gets_our_kernels(kernel):
    here, described = (choose_layout(one_of(card("9.0", here))) for here in (True, False))
    assert isinstance(here.decode_layer, DecodeLayer)
    assert here.attend is fused_attention
    # Only a card can tell how cuDNN would do it.
    assert described == dataclasses.replace(here, attend=None)


def test_kernels_keep_to_a_card_s_shared_memory(kernel):
    small = choose_layout(one_of(card("8.9", False, shared_memory_per_block_optin=99 * 2**10)))
    assert small.decode_layer.shared == 99 * 2**10


@pytest.mark.parametrize("capability", ["7.5", "gfx942", ""])
def test_other_cards_get_plain_layers(kernel, capability):
    assert choose_layout(one_of(card(capability, True))) == Layout(
        joined=True, unrolled=2**25, apart=EVERY, kept_apart=True
    )


def test_several_cards_have_their_layers_apart(kernel):
    mesh = Mock(spec=Mesh, size=2, devices=np.array([card("9.0", True)] * 2))
    assert choose_layout(mesh) == Layout(unrolled=2**25, apart=EVERY, kept_apart=True)


def one_of(device):
    """A mesh of one."""
    return Mock(spec=Mesh, size=1, devices=np.array([device]))


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_several_devices_join_nothing(kernel, platform):
    assert choose_layout(mesh_of(platform, 8)) == Layout(unrolled=2**25)


def test_the_kernel_is_looked_for_on_one_cpu_only(monkeypatch):
    """Elsewhere a missing compiler is no matter, and no warning is due."""
    monkeypatch.setattr(module, "has_kernel", lambda: pytest.fail("asked"))
    for mesh in (mesh_of("tpu", 1), mesh_of("cpu", 8)):
        choose_layout(mesh)


def test_a_layout_holds_inside_use():
    assert layout() == PLAIN
    chosen = Layout(joined=True, unrolled=5)
    with use(None, TRAIN, chosen):
        assert layout() is chosen
        with use(make_mesh((2, 1, 1)), TRAIN):
            assert layout() == PLAIN
        assert layout() is chosen
    assert layout() == PLAIN


def test_joining_is_refused_on_several_devices():
    message = r"joined=True.* joins dimensions .* mesh of 2 devices: .*choose_layout"
    with pytest.raises(ValueError, match=message), use(make_mesh((2, 1, 1)), TRAIN, Layout(joined=True)):
        pass
    with use(make_mesh((1, 1, 1)), TRAIN, Layout(joined=True)):
        assert layout().joined
