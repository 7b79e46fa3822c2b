"""Conceptual captions: tars of the webdataset layout, in which files with one stem are a record.

`000012.jpg`, `000012.txt` (the caption) and, not always, `000012.json` (with "caption"). Members are read where they
lie: nothing is unpacked, so no name can reach outside; links, devices and names that would are counted and left out.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.corpora.files import DAMAGED, find_files
from lam_jax.corpora.pictures import Slice
from lam_jax.corpora.rows import DESCRIBE, Odd, Placed, Row, chat, counted, pick
from lam_jax.data.readers import Drops, strip_image_tag
from lam_jax.data.schemas import DataError, Where

PICTURES = ("jpg", "jpeg", "png", "webp")
MOST_TEXT = 1 << 20  # bytes of a caption's file


def read_cc12m(sources: Sequence[Path], images: Path | None, drops: Drops, light: bool = False) -> Iterator[Placed]:
    """Rows of tars, see the module and `Reader`; `images` is not used."""
    for path in find_files(sources, (".tar",), "webdataset tars"):
        yield from counted(_groups(path, drops), _row, drops)


def _groups(path: Path, drops: Drops) -> Iterator[tuple[Where, dict[str, Any]]]:
    """Members that follow each other and share a stem, as {"": stem, ending: member's slice or text}."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"\x1f\x8b" or start == b"\x28\xb5\x2f\xfd":
        found = "a packed tar, in which no picture can be found by its place"
        raise DataError(Where(str(path)), None, found, "a plain .tar", "Unpack it with gunzip or zstd -d.")
    number = -1
    group: dict[str, Any] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                stem, ending = _stem(member.name)
                if group.get("") != stem:
                    if group:
                        yield Where(str(path), number), group
                    number, group = number + 1, {"": stem}
                if not member.isreg():
                    group.setdefault("odd", ("no plain file in a tar", member.name))
                elif member.name.startswith("/") or ".." in Path(member.name).parts:
                    group["odd"] = "name outside the tar", member.name
                elif ending in ("txt", "json"):
                    if member.size <= MOST_TEXT:
                        group[ending] = tar.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]
                else:
                    group[ending] = Slice(path, member.offset_data, member.size)
            if group:
                yield Where(str(path), number), group
    except (tarfile.TarError, EOFError, OSError) as error:
        drops.add(DAMAGED, Where(str(path), number + 1), f"{type(error).__name__}: {error}")


def _stem(name: str) -> tuple[str, str]:
    """Up to the first dot of the last part, as webdataset splits names; and the rest."""
    folder, _, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending.lower()


def _row(group: dict[str, Any], where: Where) -> Row:
    if "odd" in group:
        raise Odd(*group["odd"])
    picture = next((group[ending] for ending in PICTURES if ending in group), None)
    if picture is None or not picture.size:
        raise Odd("missing image", group[""])
    caption = _caption(group)
    if not caption:
        raise Odd("no caption", group[""])
    identifier = f"cc12m/{Path(where.file).stem}/{group['']}"
    return {
        "id": identifier,
        "images": [picture],
        "messages": chat(pick(DESCRIBE, identifier), caption),
        "instance_type": "caption",
    }


def _caption(group: dict[str, Any]) -> str:
    """The caption's file, or the caption that the record's JSON holds."""
    try:
        if "txt" in group:
            return strip_image_tag(group["txt"].decode("utf-8-sig")).strip()
        value = json.loads(group["json"]).get("caption") if "json" in group else None
    except (ValueError, AttributeError, RecursionError) as error:
        raise Odd("caption that cannot be read", str(error)) from error
    return strip_image_tag(value).strip() if isinstance(value, str) else ""
