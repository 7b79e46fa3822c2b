"""Files of rows: JSON, JSON Lines, either compressed, Parquet, and a folder that `datasets` saved.

What a row means is `lam_jax.data.layouts`'; here a row is whatever stands in the file. Nothing is repaired or left out:
a file that is cut, holds a key twice, or a number that JSON does not have, is an error that names the row.
"""

import gzip
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.data.bad_rows import Unreadable, tally_of_reading
from lam_jax.data.schemas import DataError, Where
from lam_jax.data.tables import extra, rows_of_folder, rows_of_parquet, unreadable

LINES, LIST, PARQUET = (".jsonl", ".ndjson"), ".json", ".parquet"
PACKED = (".gz", ".zst")
READ = ".json, .jsonl (also with .gz or .zst), .parquet, or a folder of datasets' save_to_disk"
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_BLOCK = 1 << 20
_SPACE = " \t\n\r"
_CUT = "The file is cut or edited; correct it or fetch it again."


class _ValueRefused(ValueError):
    """Something that Python's JSON reader takes and that would be lost or changed."""

    def __init__(self, key: str | None, found: str, expected: str, fix: str):
        super().__init__(found)
        self.key, self.found, self.expected, self.fix = key, found, expected, fix


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise _ValueRefused(twice, "the key twice in one object", "each key once", "Drop or rename one of them.")
    return values


def _constant(text: str) -> float:
    raise _ValueRefused(None, text, "a number that JSON has", "Write null, or drop the row.")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _ValueRefused(None, f"the number {text[:40]}", "one that a float holds", "Correct the number.")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)


def _decode(text: str, start: int, where: Where, whole: bool = False) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends; with `whole` nothing may follow.

    Raises:
      json.JSONDecodeError: there is none.
      DataError: one that cannot be kept as it is.
    """
    try:
        if whole:
            return _DECODER.decode(text), len(text)
        return _DECODER.raw_decode(text, start)
    except _ValueRefused as error:
        raise DataError(where, error.key, error.found, error.expected, error.fix) from error
    except RecursionError as error:
        raise DataError(where, None, "values nested too deeply", "a row of a few levels", "Flatten it.") from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python refuses to read integers of thousands of digits
        raise DataError(where, None, f"a number of too many digits ({error})", "one of fewer", "Correct it.") from error


def _bad_json(error: json.JSONDecodeError, where: Where) -> DataError:
    found = f"{error.msg} at line {error.lineno}, column {error.colno}"
    return DataError(where, None, found, "valid JSON", _CUT)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _open(path: Path) -> Any:
    """The file, to be read as bytes; gzip is unpacked.

    Raises:
      DataError: there is no such file.
    """
    try:
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")
    except (OSError, ValueError) as error:
        raise unreadable(Where(str(path)), error) from error


def _unpacked(path: Path) -> Iterator[bytes]:
    """The file's bytes, unpacked, in blocks.

    Raises:
      DataError: it cannot be read, or its packing is cut or damaged.
    """
    where = Where(str(path))
    with _open(path) as file:
        try:
            blocks = iter(lambda: file.read(_BLOCK), b"")
            yield from _without_zstd(blocks, where) if path.suffix == ".zst" else blocks
        except DataError:
            raise
        except Exception as error:  # each packing has exceptions of its own for damage
            raise unreadable(where, error) from error


def _without_zstd(blocks: Iterator[bytes], where: Where) -> Iterator[bytes]:
    try:
        from compression import zstd  # pyright: ignore[reportMissingImports], Python 3.14

        new = zstd.ZstdDecompressor
    except ImportError:
        package = extra("zstandard", "zstd", where)
        new = package.ZstdDecompressor().decompressobj
    # Not a reader of either package: zstandard's takes a cut file for a whole one.
    frame, ended = new(), True
    for block in blocks:
        while block:
            if frame.eof:
                frame = new()
            yield frame.decompress(block)
            ended, block = frame.eof, frame.unused_data if frame.eof else b""
    if not ended:
        raise DataError(where, None, "a compressed file that ends too early", "a whole one", "Fetch it again.")


def _text_of(raw: bytes, where: Where) -> str:
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"a byte that is not {encoding.removesuffix('-sig').upper()} at offset {error.start}"
        raise DataError(where, None, found, "UTF-8 text", "Re-encode or re-download the file.") from error
    if encoding == "utf-8" and "\0" in text[:4]:
        found = "text with zero bytes, as UTF-16 without a mark has"
        raise DataError(where, None, found, "UTF-8 text", "Save the file as UTF-8.")
    return text


def read_json(path: Path) -> Any:
    """Content of a JSON file, packed or not; a byte order mark says whether it is UTF-8, UTF-16 or UTF-32.

    Raises:
      DataError: the file is missing, is not text, is not JSON (names line and column), has a key twice in an object, or
        a number that JSON does not have.
    """
    where = Where(str(path))
    text = _text_of(b"".join(_unpacked(path)), where)
    try:
        return _decode(text, 0, where, whole=True)[0]
    except json.JSONDecodeError as error:
        raise _bad_json(error, where) from error


def read_rows(path: Path) -> list[Any]:
    """All rows of a file, in its order; see `iterate_rows`."""
    return list(iterate_rows(path))


def iterate_rows(path: Path) -> Iterator[Any]:
    """Rows of a file or folder, by its ending: `READ`.

    A .json file is a list of rows or, where its content is that, one row a line; so is a .jsonl file. Blank lines do
    not count.

    Raises:
      DataError: no such file, a kind that is not read, an extra that is missing, or content that cannot be used; names
        the row where there is one.
    """
    where = Where(str(path))
    if path.is_dir():
        return rows_of_folder(path, READ)
    kind = path.with_suffix("").suffix if path.suffix in PACKED else path.suffix
    if kind == PARQUET and path.suffix == PARQUET:
        return rows_of_parquet(path)
    if kind in (*LINES, LIST):
        return _rows_of_json(path, lines=kind in LINES)
    if not path.exists():
        raise DataError(where, None, "No such file or directory", "a readable file of rows", "Check the path.")
    raise DataError(where, None, f"a file ending in {path.suffix!r}", READ, "Convert or rename the file.")


def _rows_of_json(path: Path, lines: bool) -> Iterator[Any]:
    where = Where(str(path))
    blocks = _unpacked(path)
    head = b""
    for block in blocks:  # the first character decides, whatever the ending
        head += block
        if len(head) >= 4 and head.strip(b"\xef\xbb\xbf \t\r\n"):
            break
    marked = next((name for mark, name in _BOMS[1:] if head.startswith(mark)), None)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if lines and marked is None and start != b"[":
        yield from _rows_of_lines(_split(head.removeprefix(b"\xef\xbb\xbf"), blocks), path)
        return
    text = _text_of(head + b"".join(blocks), where)
    start = text[_skip(text, 0) :][:1]
    if start == "[":
        yield from _rows_of_list(text, path)
    elif lines or (start == "{" and _has_lines(text)):
        yield from _rows_of_lines(text.split("\n"), path)
    else:
        try:
            value = _decode(text, 0, where, whole=True)[0]
        except json.JSONDecodeError as error:
            raise _bad_json(error, where) from error
        fix = "Put the rows into one list, [..]; one object a line is JSON Lines: name the file .jsonl."
        raise DataError(where, None, f"a top-level {type(value).__name__}", "a list of rows", fix)


def _has_lines(text: str) -> bool:
    """Whether the first line that is not blank is an object of its own, and more follow."""
    first, _, rest = text.lstrip(_SPACE).partition("\n")
    if not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _split(head: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    # Not splitlines(): JSON text may hold other line ends, such as U+2028.
    begun: list[bytes] = []
    for block in itertools.chain([head], blocks):
        first, *others = block.split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun)
            begun = [other]
    yield b"".join(begun)


def _rows_of_lines(lines: Iterable[bytes | str], path: Path) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        where = Where(f"{path}, line {number}")
        try:
            text = _text_of(line, where) if isinstance(line, bytes) else line
            if text.strip(_SPACE):
                yield _row_of_line(text, where)
        except DataError as error:
            if tally_of_reading() is None:
                raise
            yield Unreadable(error)


def _row_of_line(text: str, where: Where) -> Any:
    try:
        return _decode(text, 0, where, whole=True)[0]
    except json.JSONDecodeError as error:
        fix = "The file is cut or edited; correct or drop the line."
        if error.msg == "Extra data":
            fix = "Put each object on a line of its own."
        raise DataError(where, None, f"{error.msg} at column {error.colno}", "a JSON object", fix) from error


def _rows_of_list(text: str, path: Path) -> Iterator[Any]:
    index, at = 0, _skip(text, _skip(text, 0) + 1)
    file = Where(str(path))
    try:
        if text[at : at + 1] == "]":
            at += 1
        else:
            while True:
                try:
                    value, at = _decode(text, at, Where(str(path), index))
                except DataError as error:
                    if tally_of_reading() is None:
                        raise
                    value, at = Unreadable(error), _end_of(text, at, error)
                yield value
                at = _skip(text, at)
                if text[at : at + 1] == "]":
                    at += 1
                    break
                if text[at : at + 1] != ",":
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
                index, at = index + 1, _skip(text, at + 1)
        if (end := _skip(text, at)) < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        raise _bad_json(error, file) from error


def _end_of(text: str, start: int, refused: DataError) -> int:
    """Where a value ends that was refused for what it holds.

    Raises:
      DataError: `refused`, if its end cannot be told.
    """
    try:
        return json.JSONDecoder(parse_int=float).raw_decode(text, start)[1]
    except RecursionError:
        raise refused from None


def files_of(path: Path) -> list[Path]:
    """The files that are read for a file or folder of rows, in order."""
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in found if not file.name.startswith((".", "cache-")))  # these come and go


def hash_rows(path: Path) -> str:
    """SHA-256 of a file of rows, or of the names and contents of a folder's files.

    Raises:
      DataError: a file cannot be read.
    """
    if not path.is_dir():
        return hash_files([path])
    digest = hashlib.sha256()
    for file in files_of(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_files([file])}\0".encode())
    return digest.hexdigest()


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in order.

    Raises:
      DataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DataError(
                Where(str(file)), None, str(error.strerror), "a readable file", "Check the path."
            ) from error
    return digest.hexdigest()
