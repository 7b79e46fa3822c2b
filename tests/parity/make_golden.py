"""Writes the ladder's golden files from transformers and torch: python -m tests.parity.make_golden [FOLDER]."""

import sys
from pathlib import Path

import numpy as np

from tests.parity.ladder_cases import CASES
from tests.parity.transformers_reference import reference

FOLDER = Path(__file__).parent / "golden_data"


def main(folder: Path) -> None:
    for case in CASES:
        path = folder / f"ladder_{case.name}.npz"
        np.savez_compressed(path, **reference(case))
        print(f"{path} {path.stat().st_size / 2**20:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
