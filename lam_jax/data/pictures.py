"""Pictures of a row: paths, bytes, base64, data addresses and what `datasets` stores, as bytes or as paths of files.

A path never leads out of the folders that rows may take pictures from, whatever `..`, absolute paths and links say: a
file of rows comes from elsewhere, and must not make a run read the machine's other files.
"""

import base64
import binascii
import functools
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlparse

from lam_jax.data.bad_rows import tally_of_reading
from lam_jax.data.schemas import DataError, ImageSource, Where, describe

PICTURE = "a path, the bytes of a picture file, base64, a data: address, or {'bytes', 'path'}"
# First bytes of PNG, JPEG, GIF, WebP, TIFF and BMP: what base64 in place of a path is known by.
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{64,}={0,2}\s*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):")


def resolve_image(
    value: Any, image_root: Path | None, where: Where, key: str, folders: Sequence[Path] = ()
) -> ImageSource:
    """An image value of a row as bytes, or as the path of an existing file.

    Args:
      value: a path (from `image_root`, absolute, or file://), bytes, base64, a data: address, or {"bytes", "path"}.
      image_root: folder that relative paths start from and that files must lie in, links followed; None: the current.
      where: the row.
      key: the key of the value, for messages.
      folders: further folders that files may lie in.

    Raises:
      DataError: another value, a network address, no such file or an empty one, or one outside of the folders.
    """
    if isinstance(value, Mapping):
        value = _stored(value, where, key)
    if isinstance(value, bytes):
        if not value:
            raise DataError(where, key, "0 bytes", "the bytes of a picture file", "Fetch the picture, or drop the row.")
        return value
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(where, key, describe(value), f"an image path ({PICTURE})", "Correct the row.")
    if not value.strip():
        raise DataError(
            where, key, "an empty text", f"an image path ({PICTURE})", "Drop the key of a row without picture."
        )
    scheme = _SCHEME.match(value)
    if scheme and scheme[1].lower() == "data":
        return _data_address(value, where, key)
    if scheme and scheme[1].lower() == "file":
        value = _file_address(value, where, key)
    elif scheme and value[scheme.end() :].startswith("//"):
        fix = "Pictures are not fetched while training: fetch it, and give its path."
        raise DataError(where, key, f"the address {_short(value)}", "a picture file on this machine", fix)
    elif (content := _base64(value, where, key)) is not None:
        return content
    return _file(value, image_root or Path(), where, key, folders)


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def _stored(value: Mapping[str, Any], where: Where, key: str) -> Any:
    """The part of {"bytes", "path"} that holds the picture."""
    if set(value) <= {"bytes", "path"}:
        if isinstance(value.get("bytes"), bytes):
            return value["bytes"]
        if isinstance(value.get("bytes"), str) and _base64(value["bytes"], where, key) is not None:
            return value["bytes"]
        if value.get("bytes") is None and isinstance(value.get("path"), str):
            return value["path"]
    found = f"an object with the keys {sorted(map(str, value))}" if value else "an empty object"
    raise DataError(where, key, found, "{'bytes': bytes} or {'path': text}", "Correct the row.")


def _data_address(value: str, where: Where, key: str) -> bytes:
    head, comma, body = value.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if (kind := head[5:].split(";")[0]) and not kind.lower().startswith("image/"):
            raise ValueError(f"a {kind}")
        if head.lower().endswith(";base64"):
            content = base64.b64decode("".join(unquote(body).split()), validate=True)
        else:
            content = unquote_to_bytes(body)
        if not content:
            raise ValueError("0 bytes")
    except (ValueError, binascii.Error) as error:
        found = f"{_short(value)} ({error})"
        raise DataError(where, key, found, "data:image/png;base64,..", "Encode the picture again.") from error
    return content


def _file_address(value: str, where: Where, key: str) -> str:
    try:
        parsed = urlparse(value)
        host = parsed.netloc
    except ValueError as error:
        raise DataError(where, key, _short(value), "file:///folder/name", "Correct the address.") from error
    if host not in ("", "localhost") or not parsed.path:
        raise DataError(where, key, _short(value), "file:///folder/name", "Correct the address.")
    return unquote(parsed.path)


def _base64(value: str, where: Where, key: str) -> bytes | None:
    """The picture that a text is the base64 of; None where it is none."""
    if not _BASE64.fullmatch(value):
        return None
    text = "".join(value.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        begin = base64.b64decode(text[:24])
        if not begin.startswith(_SIGNATURES):
            return None
        content = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        found = f"what begins as a picture in base64 and does not decode ({error})"
        raise DataError(where, key, found, "whole base64", "Encode the picture again.") from error
    if content.startswith(b"RIFF") and content[8:12] != b"WEBP":
        return None
    if content.startswith(b"BM") and int.from_bytes(content[2:6], "little") != len(content):
        return None
    return content


def _file(value: str, root: Path, where: Where, key: str, folders: Sequence[Path]) -> Path:
    path = root / value
    try:
        real, state = _real(path), None
        allowed = [_real_folder(os.path.join(os.getcwd(), folder)) for folder in (root, *folders)]
        if inside := any(real == folder or real.startswith(folder.rstrip(os.sep) + os.sep) for folder in allowed):
            state = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte or half a surrogate pair
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        if missing and tally_of_reading() is not None:
            return path  # where bad rows are skipped, it is missed when it is opened: rows after it must not move
        reason = "" if missing else f" ({getattr(error, 'strerror', None) or error})"
        raise _no_file(path, where, key, reason) from error
    if not inside:
        found = f"the path {_short(value)!r}, which leads to {_short(real)}"
        expected = f"a file inside {' or '.join(map(_short, allowed))}"
        fix = (
            "Pictures elsewhere are not read unless that is asked for: name their folder (--image-root where relative "
            "paths start there, else --picture-folders), or correct the row."
        )
        raise DataError(where, key, found, expected, fix)
    if state is None or not stat.S_ISREG(state.st_mode):
        raise _no_file(path, where, key, "")
    if not state.st_size and tally_of_reading() is None:
        raise DataError(where, key, f"the empty file {_short(str(path))}", "a picture", "Fetch it, or drop the row.")
    return path


def _no_file(path: Path, where: Where, key: str, reason: str) -> DataError:
    shown = _short(str(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0"))
    fix = "Fetch it, correct image_root, or drop the row."
    return DataError(where, key, f"no file {shown}{reason}", "an image file", fix)


@functools.lru_cache(maxsize=4096)  # rows of a set share a few folders, and each link costs a look at the disk
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _real(path: Path) -> str:
    """The path with all links followed."""
    if path.name in ("", "..") or path.is_symlink():
        return os.path.realpath(path)
    return os.path.join(_real_folder(os.path.join(os.getcwd(), path.parent)), path.name)
