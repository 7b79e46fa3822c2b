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
# read: 3B on an H100, 11 copies a layer, none of them apart (`lam-jax compile`).
EVERY = 2**62
GPUS = ("gpu", "cuda", "rocm")


def choose_layout(mesh: Mesh | None) -> Layout:
    """The layout of programs that run on `mesh` (None: the default device)."""
    if mesh is not None and mesh.size > 1:
        return Layout(unrolled=UNROLLED_WEIGHTS)
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if platform in GPUS:
        return Layout(joined=True, unrolled=UNROLLED_WEIGHTS, apart=EVERY)
    return Layout(joined=True, unrolled=UNROLLED_WEIGHTS, pack=pack if platform == "cpu" and has_kernel() else None)


def statics(weights: Any, layout: Layout | None = None) -> dict[str, Any]:
    """`mesh` and `layout`, the static arguments of programs: where `weights` lie, by default what suits that mesh."""
    mesh = mesh_of(weights)
    return {"mesh": mesh, "layout": choose_layout(mesh) if layout is None else layout}
