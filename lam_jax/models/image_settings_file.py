"""The files of a Hugging Face folder that say how pictures are resized, normalised and cut into patches.

transformers keeps these settings in `preprocessor_config.json`, and from version 5 on in `processor_config.json` under
`image_processor`. The limits of a picture's size have had three places: `min_pixels` and `max_pixels` beside the other
keys, the same two under `size`, and `shortest_edge` and `longest_edge` under `size`, in pixels too, whatever the names.
"""

import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lam_jax.models.decoding import CHANNELS, ImageError

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
NESTED = "image_processor"  # of PROCESSOR
# Our name -> the names under `size`.
_LIMITS = {"min_pixels": ("shortest_edge", "min_pixels"), "max_pixels": ("longest_edge", "max_pixels")}
_BICUBIC = 3
# What other processors do to pixels and this one does not: key -> the values that change nothing here.
_FIXED: dict[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_convert_rgb": (True,),
    "do_center_crop": (False,),
    "do_pad": (False,),
    "resample": (_BICUBIC, "bicubic", "BICUBIC"),
}
# Keys that say how a picture is sized or cut; any other key that sounds like one is refused, not passed over.
_SIZES = {
    *("min_pixels", "max_pixels", "patch_size", "merge_size", "temporal_patch_size", "size"),
    *("crop_size", "pad_size"),  # read only where `do_center_crop` or `do_pad` is true
}
_LIKE_A_SIZE = re.compile(r"pixels?|edge|patch|merge|(?:^|_)size|limit", re.IGNORECASE)
logger = logging.getLogger("lam_jax")


def image_settings_file(folder: str | Path) -> Path | None:
    """The file of a folder that `read_image_fields` reads; None if there is none.

    Where both are there, `processor_config.json` counts if it holds settings of images, as in transformers.
    """
    processor, preprocessor = Path(folder) / PROCESSOR, Path(folder) / PREPROCESSOR
    if processor.is_file() and isinstance(_json(processor).get(NESTED), dict):
        return processor
    return preprocessor if preprocessor.is_file() else None


def read_image_values(folder: str | Path) -> dict[str, Any]:
    """The settings of images as they stand in a folder's file; none where there is no file.

    Raises:
        ImageError: the file is damaged.
    """
    path = image_settings_file(folder)
    if path is None:
        return {}
    values = _json(path)
    # Some hands have put the newer form into the older file.
    return nested if isinstance(nested := values.get(NESTED), dict) else values


def read_image_fields(folder: str | Path) -> dict[str, Any]:
    """The fields of `ImageSettings` that a folder's file sets, checked one by one; see `read_image_settings`.

    Raises:
        FileNotFoundError: no such file.
        ImageError: the file is damaged, or says something that this processor does not do.
    """
    path = image_settings_file(folder)
    if path is None:
        raise FileNotFoundError(
            f"{folder} holds neither {PREPROCESSOR} nor a {PROCESSOR} with {NESTED!r}: expected the image settings of "
            "a Qwen2.5-VL or Qwen3-VL. Fetch the folder again."
        )
    values = read_image_values(folder)
    try:
        _require_known(values)
        found = {name: _whole(values, name) for name in ("patch_size", "merge_size", "temporal_patch_size")}
        found |= {name: _limit(values, name, path) for name in _LIMITS}
        found |= {"mean": _channels(values, "image_mean"), "std": _channels(values, "image_std")}
        return {name: value for name, value in found.items() if value is not None}
    except (ValueError, TypeError, AttributeError) as error:
        raise unusable(path, str(error)) from error


def unusable(path: Path, reason: str) -> ImageError:
    """The error for a file that cannot be used."""
    return ImageError(
        f"{path}: not the settings of an image processor ({reason}). Fetch the file again, or correct it."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise unusable(path, str(error)) from error
    if not isinstance(values, dict):
        raise unusable(path, f"found {type(values).__name__}, expected an object")
    return values


def _require_known(values: Mapping[str, Any]) -> None:
    """Refuses what would change pixels and is not done here."""
    kind = values.get("image_processor_type")
    if kind is not None and not str(kind).startswith("Qwen2"):
        raise ValueError(f"found image_processor_type {kind!r}, expected Qwen2VLImageProcessor")
    for key, harmless in _FIXED.items():
        if (found := values.get(key)) is not None and found not in harmless:
            raise ValueError(f"found {key} {found!r}, expected {harmless[0]!r}: nothing else is computed here")
    factor = values.get("rescale_factor")
    if factor is not None and not math.isclose(float(factor), 1 / 255, rel_tol=1e-6):
        raise ValueError(f"found rescale_factor {factor!r}, expected 1/255")
    if unknown := sorted(
        key for key, value in values.items() if value is not None and key not in _SIZES and _LIKE_A_SIZE.search(key)
    ):
        raise ValueError(f"found {unknown}, which are not read; expected sizes under {sorted(_SIZES)}")
    size = values.get("size")
    known = [name for names in _LIMITS.values() for name in names]
    if size is not None and not isinstance(size, dict):
        raise ValueError(f"found size {size!r}, expected an object with some of {known}")
    # Newer versions write all keys that a size can have, those that are not set as null.
    if unknown := sorted(key for key, value in (size or {}).items() if key not in known and value is not None):
        raise ValueError(f"found {unknown} under size, expected some of {known}, in pixels")


def _limit(values: Mapping[str, Any], name: str, path: Path) -> int | None:
    size = values.get("size") or {}
    under = [(key, found) for key in _LIMITS[name] if (found := _whole(size, key)) is not None]
    if len({found for _, found in under}) > 1:
        raise ValueError(f"size says both {under[0][0]} {under[0][1]} and {under[1][0]} {under[1][1]}: remove one")
    beside = _whole(values, name)
    if beside is None:
        return under[0][1] if under else None
    if under and under[0][1] != beside:
        logger.warning(
            "%s: %s is %d, but size.%s is %d: the former counts, as in transformers.",
            *(path, name, beside, *under[0]),
        )
    return beside


def _whole(values: Mapping[str, Any], key: str) -> int | None:
    found = values.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not float(found).is_integer() or found < 1:
        raise ValueError(f"found {key} {found!r}, expected a positive whole number")
    return int(found)


def _channels(values: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    found = values.get(key)
    if found is None:
        return None
    if isinstance(found, int | float):  # one number for all, as transformers takes it
        return (float(found),) * CHANNELS
    return tuple(float(value) for value in found)
