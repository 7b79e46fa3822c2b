"""A disk or a quota that is full: how it is recognised, checked for and reported."""

import errno
import logging
import shutil
from pathlib import Path

from lam_jax.errors import NoSpaceError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_SPACE_WORDS = ("No space left", "Disk quota exceeded", "File too large")


def is_no_space(error: BaseException) -> bool:
    """Whether an error of the file system or of tensorstore means that the disk or the quota is full."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(words in str(error) for words in NO_SPACE_WORDS)


def no_space(path: Path, found: str) -> NoSpaceError:
    """The error for a checkpoint that did not fit."""
    return NoSpaceError(
        f"{path}: no space for this checkpoint ({found}). Nothing half-written was left, earlier checkpoints are "
        "intact. Free space on that disk, then run the same command again: it goes on from the last checkpoint."
    )


def require_space(path: Path, needed: int) -> None:
    """Raises NoSpaceError if `needed` bytes are not free where `path` will be written."""
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise no_space(path, f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


class SaidOnce(logging.Filter):
    """Drops Orbax's stack traces for a full disk from each of its threads: the run ends with one message of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        error = record.exc_info[1] if record.exc_info else None
        return error is None or not is_no_space(error)
