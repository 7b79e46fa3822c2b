"""Which `Layout` suits the devices: the one place that asks for backend, number of devices and the C kernel."""

from typing import Any

import jax
from jax.sharding import Mesh

from lam_jax.cpu.packed_linear import has_kernel, pack
from lam_jax.nn.layout import Layout
from lam_jax.parallel.rules import mesh_of

# A scanned layer's activations are copied into and out of stacked buffers; where layers are this small that costs as
# much as their arithmetic (2 CPU cores, `tiny`, a step of latent SFT: 0.96 s scanned, 0.61 s unrolled). Larger layers
# hide the copies, and scanning keeps their program small.
UNROLLED_WEIGHTS = 2**25
# On GPUs a scanned layer's weights and caches are copied out of their stacks at each decode step, which triples what is
# read: 3B on an H100, 11 copies a layer, none of them apart (`lam-jax compile`). Kept apart they need no second copy.
EVERY = 2**62
GPUS = ("gpu", "cuda", "rocm")


def choose_layout(mesh: Mesh | None) -> Layout:
    """The layout of programs that run on `mesh` (None: the default device)."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    gpu = device.platform in GPUS
    if mesh is not None and mesh.size > 1:
        return Layout(unrolled=UNROLLED_WEIGHTS, apart=EVERY if gpu else None, kept_apart=gpu)
    if has_tensor_cores(device):
        # A described card, which `lam-jax compile` uses, gets all but `attend`: cuDNN plans on the card itself.
        from lam_jax.gpu.attention import fused_attention
        from lam_jax.gpu.decode_layer import DecodeLayer

        shared = getattr(device, "shared_memory_per_block_optin", None)  # bytes
        return Layout(
            joined=True,
            unrolled=UNROLLED_WEIGHTS,
            apart=EVERY,
            kept_apart=True,
            attend=fused_attention if device.client is jax.devices()[0].client else None,
            query_block=256,  # where there is no `attend`, scores are most of what an update of one prompt holds
            decode_layer=DecodeLayer(shared=shared) if shared else DecodeLayer(),
            logits_bytes=2**30,
        )
    kernel = pack if device.platform == "cpu" and has_kernel() else None
    apart = EVERY if gpu else None
    return Layout(joined=True, unrolled=UNROLLED_WEIGHTS, apart=apart, kept_apart=gpu, pack=kernel)


def has_tensor_cores(device: Any) -> bool:
    """Whether a device, here or described, is an NVIDIA GPU of the Ampere generation or a later one."""
    if device.platform not in GPUS:
        return False
    capability = getattr(device, "compute_capability", "")  # "9.0"; of AMD's "gfx942"
    return capability.replace(".", "").isdigit() and float(capability) >= 8


def statics(weights: Any, layout: Layout | None = None) -> dict[str, Any]:
    """`mesh` and `layout`, the static arguments of programs: where `weights` lie, by default what suits that mesh."""
    mesh = mesh_of(weights)
    return {"mesh": mesh, "layout": choose_layout(mesh) if layout is None else layout}
