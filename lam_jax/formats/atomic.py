"""Output that is whole or absent: written under a temporary name beside its target, then renamed."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

NAME_MAX = 255  # bytes of a file's name


@contextlib.contextmanager
def whole(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path for a file or folder that becomes `target` only if the block ends without an error.

    Raises:
        FileExistsError: `target` exists and is not an empty folder; nothing is ever overwritten.
    """
    target = Path(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists already: remove it or choose another output path.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(target, f"partial-{os.getpid()}")
    _remove(partial)
    try:
        yield partial
        if target.is_dir():
            target.rmdir()
        os.replace(partial, target)
    finally:
        _remove(partial)


def beside(target: Path, ending: str) -> Path:
    """A hidden path in the folder of `target`, of its own for each target and ending, and short however long that is.

    A file's name may have 255 bytes, which is 85 Chinese characters: a name with something added may be too long.
    """
    return target.with_name(f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.{ending}")


def named_after(target: Path, ending: str) -> Path:
    """A path in the folder of `target` whose name is its name and `ending`; `beside` where that would be too long."""
    name = target.name + ending
    return target.with_name(name) if len(os.fsencode(name)) <= NAME_MAX else beside(target, ending.lstrip("."))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
