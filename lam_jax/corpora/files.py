"""Records of data files one after the other: JSON, JSON Lines, Parquet, plain or packed by gzip or zstandard.

Nothing is read whole: a file may be larger than memory. A line or a file that is damaged is counted and passed over.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError, Where

Record = tuple[Where, Any]
LINES, LISTS, TABLES = (".jsonl", ".ndjson"), (".json",), (".parquet",)
PACKED = (".gz", ".zst")
BLOCK = 1 << 20  # characters of a JSON list that are read at once
LONGEST = 1 << 28  # characters of one row: more is no row but a file of another kind
NOT_JSON, DAMAGED = "line that is not JSON", "rest of a damaged file"


def suffix(path: Path) -> str:
    """What kind of file it is, whatever packs it: ".jsonl" of `a.jsonl.gz`; compared in lower case."""
    suffixes = [part.lower() for part in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def find_files(sources: Sequence[Path], kinds: Sequence[str], what: str) -> list[Path]:
    """The files that are meant: each source itself, or all files of the right kind below a folder, by name.

    Args:
      sources: files and folders.
      kinds: suffixes that are taken in folders.
      what: is looked for, for messages.

    Raises:
      DataError: a source does not exist or holds no such file.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(p for p in source.rglob("*") if p.is_file() and suffix(p) in kinds and p.name[0] != ".")
            if not inside:
                expected = f"{what} ({', '.join(kinds)})"
                raise DataError(Where(str(source)), None, "a folder without such files", expected, "Correct the path.")
            found += inside
        elif source.is_file():
            found.append(source)
        else:
            raise DataError(Where(str(source)), None, "no such file or folder", what, "Correct the path.")
    return found


def records(path: Path, drops: Drops) -> Iterator[Record]:
    """The records of a file, each with its place. A Parquet record is a dict of its columns.

    Raises:
      DataError: the file cannot be opened or is of no known kind, or reading it needs an extra that is not installed.
    """
    kind = suffix(path)
    readers: dict[str, Callable[[Path, Drops], Iterator[Record]]] = {
        **dict.fromkeys(LINES, _lines),
        **dict.fromkeys(LISTS, _list_or_lines),
        **dict.fromkeys(TABLES, _table),
    }
    if kind not in readers:
        expected = f"one of {', '.join(sorted(readers))}, as it is or packed (.gz, .zst)"
        raise DataError(Where(str(path)), None, f"a file that ends in {kind!r}", expected, "Name it so, or convert it.")
    yield from readers[kind](path, drops)


def open_unpacked(path: Path) -> io.BufferedReader:
    """The file's bytes, unpacked on the way.

    Raises:
      DataError: it cannot be opened, or zstandard is not installed.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(Where(str(path)), None, str(error.strerror), "a readable file", "Check the path.") from error
    start = raw.read(4)
    raw.seek(0)
    if start[:2] == b"\x1f\x8b":
        raw.close()  # which a GzipFile of it would leave open
        unpacked: Any = gzip.GzipFile(path)
    elif start == b"\x28\xb5\x2f\xfd":
        unpacked = _Blocks(_without_zstandard(raw, _zstandard(path)))
    else:
        return raw
    return io.BufferedReader(unpacked, 1 << 16)


class _Blocks(io.RawIOBase):
    """A file whose content comes in blocks."""

    def __init__(self, blocks: Iterator[bytes]):
        super().__init__()
        self._blocks, self._left = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        self._blocks.close()  # pyright: ignore[reportAttributeAccessIssue], a generator
        super().close()


def _without_zstandard(raw: io.BufferedReader, zstandard: Any) -> Iterator[bytes]:
    """The content, frame after frame. Not by the package's own reader, which takes a cut file for a whole one."""
    with raw:
        frame, ended = zstandard.ZstdDecompressor().decompressobj(), True
        while block := raw.read(1 << 16):
            while block:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(block)
                ended, block = frame.eof, frame.unused_data if frame.eof else b""
        if not ended:
            raise EOFError("the compressed file ends too early")


def damage_errors() -> tuple[type[Exception], ...]:
    """What the unpackers raise when a file is cut short or changed."""
    errors: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, OSError)
    try:
        import zstandard
    except ImportError:
        return errors
    return (*errors, zstandard.ZstdError)


def needs(package: str, extra: str, where: Where) -> DataError:
    """The error for a file that needs a package of an extra."""
    found, fix = f"a file that needs the package {package}", f"pip install 'lam_jax[{extra}]'."
    return DataError(where, None, found, "it to be installed", fix)


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise needs("zstandard", "zstd", Where(str(path))) from error
    return zstandard


def _lines(path: Path, drops: Drops) -> Iterator[Record]:
    with open_unpacked(path) as file:
        number = 0
        while True:
            where = Where(str(path), number)
            try:
                line = file.readline()
            except damage_errors() as error:
                return drops.add(DAMAGED, where, f"{type(error).__name__}: {error}")
            if not line:
                return
            if number == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            number += 1
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
                drops.add(NOT_JSON, where, str(error))
                continue
            yield where, row


def _list_or_lines(path: Path, drops: Drops) -> Iterator[Record]:
    with open_unpacked(path) as file:
        try:
            start = file.read(3).removeprefix(codecs.BOM_UTF8).lstrip()
            while not start and (byte := file.read(1)):
                start = byte.strip()
        except damage_errors() as error:
            return drops.add(DAMAGED, Where(str(path)), f"{type(error).__name__}: {error}")
    if start[:1] == b"[":
        yield from _list(path, drops)
    elif start[:1] == b"{":
        yield from _lines(path, drops)  # people name JSON Lines .json
    else:
        raise DataError(Where(str(path)), None, f"{start!r} first", "a JSON list or JSON Lines", "Correct the file.")


def _list(path: Path, drops: Drops) -> Iterator[Record]:
    """Items of a top-level JSON list, with one block and one item in memory."""
    decoder = json.JSONDecoder()
    with open_unpacked(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        buffer, at, number, ended = "", 0, 0, False
        where = Where(str(path), 0)
        wanted = BLOCK

        def more() -> bool:
            nonlocal buffer, at, ended
            block = text.read(wanted)
            ended = not block
            buffer, at = buffer[at:] + block, 0
            return not ended

        try:
            while "[" not in buffer:
                more()
            at = buffer.index("[") + 1
            while True:
                while at < len(buffer) and buffer[at] in " \t\r\n,":
                    at += 1
                if at == len(buffer):
                    if not more():
                        return drops.add(DAMAGED, where, "the list does not end")
                    continue
                if buffer[at] == "]":
                    return
                where = Where(str(path), number)
                try:
                    row, after = decoder.raw_decode(buffer, at)
                    whole = after < len(buffer) or ended  # "12" may go on as "123" in the next block
                except (json.JSONDecodeError, RecursionError) as error:
                    if len(buffer) - at > LONGEST or ended or isinstance(error, RecursionError):
                        return drops.add(DAMAGED, where, str(error))
                    row, after, whole = None, at, False
                if not whole:
                    wanted = max(BLOCK, len(buffer) - at)  # doubling: an item of many blocks is parsed few times
                    more()
                    continue
                wanted, at, number = BLOCK, after, number + 1
                yield where, row
        except damage_errors() as error:
            drops.add(DAMAGED, where, f"{type(error).__name__}: {error}")


def _table(path: Path, drops: Drops) -> Iterator[Record]:
    yield from table_records(path, drops)


def table_records(
    path: Path, drops: Drops, columns: Callable[[list[str]], list[str]] | None = None
) -> Iterator[Record]:
    """Rows of a Parquet file as dicts; `columns` picks those that are read from their names.

    Raises:
      DataError: no such file, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise needs("pyarrow", "parquet", Where(str(path))) from error
    if not path.is_file():
        raise DataError(Where(str(path)), None, "no such file", "a Parquet file", "Correct the path.")
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = columns(file.schema_arrow.names) if columns else None
            for batch in file.iter_batches(batch_size=256, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield Where(str(path), number - 1), row
    except (pa.ArrowException, OSError) as error:
        drops.add(DAMAGED, Where(str(path), number), f"{type(error).__name__}: {error}")
