"""Meshes and the rules tables that place logical axes on them."""

from lam_jax.parallel.mesh import make_mesh
from lam_jax.parallel.rules import ROLLOUT, TRAIN, Rules, constrain, place, shardings, use

__all__ = ["ROLLOUT", "TRAIN", "Rules", "constrain", "make_mesh", "place", "shardings", "use"]
