"""A lock that one process holds on a run's folder or on an output, also where the file system knows no `flock`.

`flock` is released by the kernel however the process ends. Where a file system refuses it (some network and cluster
mounts do), a file beside takes its place: made by one process alone, it names the host and the process that hold it,
and counts for nothing once that process has ended. What another host holds cannot be told from what it left: such a
file is taken over, with a warning.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

from lam_jax.formats.atomic import beside

logger = logging.getLogger("lam_jax")
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # what `flock` says of a lock that another process has
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TRIES = 8


class HeldError(Exception):
    """Another process holds the lock; the message says which, where that is known."""


class Lock:
    """A held lock; `release` lets go of it."""

    def __init__(self, descriptor: int, owner: Path | None = None, mine: bytes = b""):
        self._descriptor: int | None = descriptor
        self._owner, self._mine = owner, mine

    def release(self) -> None:
        """Lets go; once more does nothing."""
        if self._descriptor is None:
            return
        if self._owner is not None and _content(self._owner) == self._mine:
            with contextlib.suppress(OSError):
                self._owner.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def acquire(path: Path) -> Lock:
    """Locks the file `path`, which is made if it is not there; its content stays as it is.

    Raises:
        HeldError: another process (or this one) has it.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise HeldError("another process") from error
            return _by_owner(path, descriptor, error)
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor)


def owner_file(path: Path) -> Path:
    """The file that takes the place of `flock` on `path`."""
    return beside(path, "owner")


def _by_owner(path: Path, descriptor: int, refusal: OSError) -> Lock:
    owner = owner_file(path)
    mine = json.dumps(_this_process()).encode()
    logger.warning(
        "%s: this file system cannot lock files (%s): %s keeps other processes of this host out, but not those of "
        "other hosts. See to it that one run uses this folder.",
        *(path.parent, refusal.strerror or refusal, owner.name),
    )
    for _ in range(_TRIES):
        try:
            with owner.open("xb") as file:
                file.write(mine)
            return Lock(descriptor, owner, mine)
        except FileExistsError:
            _take_over(owner)
        except OSError as error:
            if error.errno in _FULL:
                raise
            logger.warning("%s cannot be made (%s): nothing keeps other processes out.", owner, error)
            return Lock(descriptor)
    raise HeldError(f"other processes, which began at the same time ({owner.name})")


def _take_over(owner: Path) -> None:
    """Removes what a process left that has ended.

    Raises:
        HeldError: the process still runs.
    """
    found = _content(owner)
    if found is None:
        return
    holder, here = _parsed(found), _this_process()
    number = holder.get("pid")
    if all(holder.get(key) == here[key] for key in ("host", "boot", "namespace")):
        if isinstance(number, int) and _began(number) is not None and holder.get("began") == _began(number):
            raise HeldError(f"process {number} of this host")
    elif holder.get("host") != here["host"] or holder.get("boot") == here["boot"]:
        logger.warning(
            "%s says that process %s on %s uses this folder. Whether it still runs cannot be told from here: it is "
            "taken to have ended.",
            *(owner, number, holder.get("host", "an unknown host")),
        )
    # Renamed first: of several processes that found the same leftover one gets it, and sees whether it is that one.
    aside = owner.with_name(f"{owner.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(owner, aside)
        if _content(aside) != found:
            os.rename(aside, owner)
            raise HeldError("a process that began at the same time")
        aside.unlink()


def _content(owner: Path) -> bytes | None:
    try:
        return owner.read_bytes()
    except OSError:
        return None


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _this_process() -> dict[str, Any]:
    """What tells this process from all others; of containers on one host each has process numbers of its own."""
    found: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}
    with contextlib.suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        found["namespace"] = os.readlink("/proc/self/ns/pid")
    return {"boot": None, "namespace": None} | found


def _began(pid: int) -> str | None:
    """When a process began, which tells it from another that later got its number; None: there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # it is another user's
        pass
    try:
        # After the name, which is in brackets and may hold anything, field 22 is the twentieth.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "unknown"
