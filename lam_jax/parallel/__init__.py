"""Meshes and the rules tables that place logical axes on them."""

from lam_jax.parallel.mesh import make_mesh
from lam_jax.parallel.rules import (
    ROLLOUT,
    TRAIN,
    UPDATE,
    Rules,
    constrain,
    constrain_weights,
    mesh_of,
    place,
    replicate,
    shardings,
    use,
)

__all__ = [
    "ROLLOUT",
    "TRAIN",
    "UPDATE",
    "Rules",
    "constrain",
    "constrain_weights",
    "make_mesh",
    "mesh_of",
    "place",
    "replicate",
    "shardings",
    "use",
]
