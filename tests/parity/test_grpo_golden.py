"""The released code's RL numbers, from the committed copy of the public set and, where it is there, the set itself.

`python -m tests.parity.test_grpo_golden SET.npz` copies a set's RL arrays to `golden_data/`.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.parity.grpo import check_grpo

ROOT = Path(__file__).parents[2]
COPY = Path(__file__).parent / "golden_data" / "grpo.npz"
SHARED = Path(os.environ.get("LAM_JAX_PARITY", ROOT.parent / "shared" / "parity"))
SETS = [COPY, *sorted(SHARED.glob("*_grpo.npz"))]


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_equals_released_code(path: Path):
    failures = []
    with np.load(path) as file:
        for name, ours, reference in check_grpo(file):
            error = np.abs(np.asarray(ours, np.float64) - reference)
            magnitude = np.abs(np.asarray(reference, np.float64))
            if name.endswith("grad_logps"):
                tolerance = 1e-3 * magnitude + 1e-5 * magnitude.max()
            else:
                tolerance = 1e-5 + 1e-4 * magnitude
            if ours.shape != reference.shape or not (error <= tolerance).all():
                failures.append((name, float(error.max())))
    assert not failures


def test_array_without_counterpart_fails():
    with np.load(COPY) as file:
        arrays = dict(file) | {"grpo_new/loss": np.float32(0.5)}
    name, ours, _ = check_grpo(arrays)[-1]
    assert name == "grpo_new/loss"
    assert np.isnan(ours)


def copy_set(source: Path) -> None:
    """Write the RL arrays of a golden set to the committed copy."""
    with np.load(source) as file:
        np.savez_compressed(COPY, **file)


if __name__ == "__main__":
    copy_set(Path(sys.argv[1]))
