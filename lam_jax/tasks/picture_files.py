"""Pictures that rows name: files below one folder, and nothing outside it."""

import os
from pathlib import Path
from typing import Any

from lam_jax.data.schemas import DataError, ImageSource, Where, describe

MISSING, OUTSIDE = "missing image", "image outside the folder"


def picture_file(root: Path, name: Any) -> Path | str:
    """The file `name` below `root`, or the reason why there is none: `MISSING` or `OUTSIDE`.

    A name that is absolute or climbs out of the folder is refused without looking at the disk. Links that stand inside
    the folder are followed: who made the folder made them.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return MISSING
    parts = name.replace("\\", "/")
    if os.path.isabs(parts) or ".." in parts.split("/"):
        return OUTSIDE
    path = root / name
    try:
        return path if path.is_file() else MISSING
    except (OSError, ValueError):  # a name too long for the file system, half a surrogate pair
        return MISSING


def task_picture(value: Any, root: Path | None, where: Where, key: str) -> ImageSource:
    """A picture of a task's row: bytes as they are, or the file that a name below `root` means.

    Raises:
      DataError: the value is neither, or there is no such file below the folder.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise DataError(where, key, describe(value), "an image path", "Correct the row.")
    found = picture_file(root or Path(), value)
    if found == OUTSIDE:
        expected = f"a path below {root or Path()}"
        raise DataError(where, key, f"the path {describe(value)}", expected, "Correct the row.")
    if isinstance(found, str):
        fix = "Fetch it, correct image_root, or drop the row."
        raise DataError(where, key, f"no file {(root or Path()) / value!r}", "an image file", fix)
    return found
