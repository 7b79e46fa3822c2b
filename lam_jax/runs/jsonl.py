"""Files of one JSON object a line that survive a kill: whole lines, on disk when `append` returns, cut on resume."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lam_jax.errors import LamJaxError, NoSpaceError
from lam_jax.runs.disk import is_no_space

Record = dict[str, Any]
BLOCK = 1 << 16  # bytes that are read at a time to find the last line


class BrokenLinesError(LamJaxError, ValueError):
    """A line of a log that is no record; the message names file, line and what to do."""


def read_lines(path: Path) -> Iterator[Record]:
    """Complete records of a file, in order; a last line that a killed process left unfinished is passed over.

    Yields nothing where there is no such file.

    Raises:
        BrokenLinesError: a line that is not JSON, by number.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise broken(path, number, line, "JSON") from error
            yield record


def broken(path: Path, number: int, line: bytes, expected: str) -> BrokenLinesError:
    """The error for a line of a log."""
    found = line.rstrip(b"\n")[:60].decode(errors="backslashreplace")
    return BrokenLinesError(f"{path}: line {number}: found {found!r}, expected {expected}. Delete that line.")


class JsonLines:
    """A file that records are appended to; it appears with the first of them.

    Args:
        path: of the file. What a killed process left of a last line is cut off.
        what: in the message for a full disk.
    """

    def __init__(self, path: Path, what: str = "step metrics"):
        self.path, self.what = Path(path), what
        self._file: Any = None
        if self.path.exists():
            _cut_unfinished(self.path)

    def append(self, records: Iterable[Record]) -> None:
        """Appends records, all or none.

        Raises:
            NoSpaceError: the disk is full; the file keeps its whole lines.
        """
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        if not data:
            return
        end = None
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Without a buffer: what a full disk refused would be written with the next record.
                self._file = self.path.open("ab", buffering=0)
            end, rest = self.path.stat().st_size, memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            if end is not None:
                os.truncate(self.path, end)
            self._raise(error)

    def keep(self, wanted: Callable[[Record], bool]) -> bool:
        """Drops all records but the wanted ones, by replacing the file as a whole; whether any went."""
        if all(map(wanted, read_lines(self.path))):
            return False
        self.close()
        new = self.path.with_suffix(f"{self.path.suffix}.new")
        try:
            with new.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in read_lines(self.path) if wanted(record))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            new.unlink(missing_ok=True)
            self._raise(error)
        return True

    def close(self) -> None:
        """Closes the file; a further record opens it again."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _raise(self, error: OSError) -> None:
        if not is_no_space(error):
            raise error
        raise NoSpaceError(
            f"{self.path}: no space to log {self.what}. Free space on that disk, then run the same command again: it "
            "goes on from the last checkpoint."
        ) from error


def _cut_unfinished(path: Path) -> None:
    """Ends the file with its last whole line."""
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        tail = b""
        while end and b"\n" not in tail:
            start = max(0, end - BLOCK)
            file.seek(start)
            tail, end = file.read(end - start) + tail, start
        rest = tail.rpartition(b"\n")[2]
        if not rest:
            return
        try:
            json.loads(rest)
        except ValueError:
            file.truncate(size - len(rest))
        else:  # an editor leaves the last line without its end
            file.seek(size)
            file.write(b"\n")
