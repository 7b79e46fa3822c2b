"""Writes the committed golden files from transformers and torch: python -m tests.parity.make_golden [FOLDER].

The ladder's cases, and one golden set of our own in the format of the released ones. Of that set's gradients only those
of stage 5 stay, which reach backbone and vision tower; `make parity` compares all of them, and other sets.
"""

import sys
from pathlib import Path

import numpy as np

from tests.parity.ladder_cases import CASES
from tests.parity.made_sets import OWN, make
from tests.parity.qwen3_cases import QWEN3_CASES
from tests.parity.transformers_reference import reference

FOLDER = Path(__file__).parent / "golden_data"


def main(folder: Path) -> None:
    make(OWN, folder)
    for path in folder.glob(f"{OWN.name}_grads_*.npz"):
        if not path.stem.endswith("_PolicyActionWorldVLM"):
            path.unlink()
    for case in (*CASES, *QWEN3_CASES):
        path = folder / f"ladder_{case.name}.npz"
        np.savez_compressed(path, **reference(case))
        print(f"{path} {path.stat().st_size / 2**20:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
