"""Pictures that rows name: files below one folder, and nothing outside it."""

import os
from pathlib import Path
from typing import Any

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
