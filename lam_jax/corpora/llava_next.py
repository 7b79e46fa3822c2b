"""LLaVA-NeXT: `{"id", "image", "conversations": [{"from", "value"}]}`, as Parquet with the pictures inside or as JSON.

In Parquet the picture is a column `{"bytes", "path"}`, in JSON a path below the folder of the pictures. Rows without a
picture, which the set also has, are counted and left out: it is one of the paired sets. In Parquet such a row is told
by the missing `<image>`, so that rows can be counted without reading any picture.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.corpora.files import LINES, LISTS, TABLES, find_files, records, suffix, table_records
from lam_jax.corpora.rows import Odd, Placed, Row, counted, mapping
from lam_jax.data.readers import IMAGE_TAG, Drops, strip_image_tag
from lam_jax.data.schemas import Message, Where, describe
from lam_jax.tasks.picture_files import picture_file

ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
PICTURE = "image"


def read_llava_next(
    sources: Sequence[Path], images: Path | None, drops: Drops, light: bool = False
) -> Iterator[Placed]:
    """Rows of Parquet or JSON files; see the module and `Reader`. `images` defaults to the folder of a JSON file."""
    for path in find_files(sources, (*TABLES, *LISTS, *LINES), "LLaVA-NeXT's files"):
        table = suffix(path) in TABLES
        rows = table_records(path, drops, _without_pictures if light else None) if table else records(path, drops)
        root = images or path.parent
        yield from counted(rows, functools.partial(_row, root=root, table=table), drops)


def _without_pictures(names: list[str]) -> list[str]:
    return [name for name in names if name != PICTURE]


def _row(record: Any, where: Where, root: Path, table: bool) -> Row:
    record = mapping(record)
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise Odd("no conversation", describe(turns))
    identifier = record.get("id")
    if not isinstance(identifier, str | int) or identifier == "":
        raise Odd("no id", describe(identifier))
    tagged = any(isinstance(turn, dict) and IMAGE_TAG in str(turn.get("value")) for turn in turns)
    if not tagged and (table or record.get(PICTURE) is None):
        raise Odd("no image")
    messages = _messages(turns)
    return {
        "id": f"llava-next/{identifier}",
        "images": [_cell(record.get(PICTURE), root) if table else _file(record.get(PICTURE), root)],
        "messages": messages,
        "instance_type": str(record.get("data_source") or "llava-next"),
    }


def _messages(turns: list[Any]) -> list[Message]:
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        role = ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise Odd("unusable turn", f"conversations[{index}]: {describe(turn)}")
        if role == "assistant" and not strip_image_tag(turn["value"]).strip():
            raise Odd("empty answer", f"conversations[{index}]")
        messages.append({"role": role, "content": turn["value"]})
    if messages[-1]["role"] != "assistant" or all(message["role"] != "user" for message in messages):
        raise Odd("no answer to a user", f"roles {[message['role'] for message in messages]}")
    return messages


def _cell(value: Any, root: Path) -> Path | bytes:
    """The picture of a Parquet cell: its bytes, or the file that it names, or no bytes, which the builder counts."""
    if isinstance(value, dict):
        value = value["bytes"] if isinstance(value.get("bytes"), bytes) else value.get("path")
    if isinstance(value, bytes):
        return value
    found = picture_file(root, value)
    return b"" if isinstance(found, str) else found


def _file(value: Any, root: Path) -> Path:
    found = picture_file(root, value)
    if isinstance(found, str):
        raise Odd(found, describe(value))
    return found
