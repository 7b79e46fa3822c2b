"""The released state dict as our `Agent`, through the library's own conversion, and our trees under its names."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lam_jax.formats.agent_folder import Manifest
from lam_jax.formats.load_latent import foreign_entries, load_released, save_released
from lam_jax.formats.matching import weights_by_path
from lam_jax.formats.save_backbone import to_file_layout
from lam_jax.latent.agent import Agent
from tests.parity.case import Case
from tests.parity.checks import Check


def load(case: Case) -> Agent:
    return Agent(*load_released(case.path("weights.npz"), case.config, case.latent))


def round_trip(case: Case) -> dict[str, Check]:
    """Every weight as it comes out again after loading."""
    agent = load(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        save_released(path, agent.backbone, agent.latent)
        with np.load(path) as file:
            return {f"w/{name.removeprefix('w/')}": Check(file[name], "exact") for name in file.files}


def by_released_name(
    tree: Agent, case: Case, like: Mapping[str, np.ndarray], first_block: int = 0
) -> dict[str, np.ndarray]:
    """Arrays of a gradient tree under their names in the state dict, laid out as in `like`.

    first_block: index of the backbone block that comes first in the tree.
    """
    leaves, arrays = weights_by_path(tree), {}
    for entry in foreign_entries(Manifest(case.config, case.latent)):
        if entry.path not in leaves:
            continue
        leaf = np.asarray(leaves[entry.path])
        start = first_block if entry.path.startswith("backbone.blocks.") else 0
        for name, part in zip(entry.names()[start:], leaf if entry.layers else [leaf], strict=True):
            if name in like:
                arrays[name] = np.concatenate(list(to_file_layout(part, entry, like[name].shape)))
    return arrays
