"""Every array of a `processor_*` set: image bytes to patches and grids, with the settings of its JSON file."""

import json
from pathlib import Path

import numpy as np

from lam_jax.models.processor import ImageSettings, process_image
from tests.parity.checks import Check, Verdict, judge


def verdicts(folder: Path, name: str) -> list[Verdict]:
    """One verdict for every array."""
    with np.load(folder / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    checks: dict[str, Check] = {}
    for image in json.loads((folder / f"{name}.json").read_text()):
        index = image["index"]
        settings = ImageSettings(
            patch_size=image["patch_size"],
            merge_size=image["merge_size"],
            temporal_patch_size=image["temporal_patch_size"],
            min_pixels=image["min_pixels"],
            max_pixels=image["max_pixels"],
        )
        patches, grid = process_image(arrays[f"{index}.image"], settings, f"{name} {index}")
        checks[f"{index}.image"] = Check(None, "input")
        checks[f"{index}.pixel_values"] = Check(patches)
        checks[f"{index}.image_grid_thw"] = Check(np.asarray([grid]))
    return [judge(key, checks.get(key), value) for key, value in arrays.items()]
