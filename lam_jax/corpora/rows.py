"""What every reader of a raw data set gives: pre-training rows with their places.

A row is `{"id", "messages": [{"role", "content"}], "instance_type"}` and, where it has pictures, `"images"`: files,
parts of files, or bytes. A reader counts what it leaves out; it looks at no picture, but for whether its file is there.

Captions and plain texts become chats: a short request by the user, then the text as the assistant's answer. Neither the
paper nor the released code says how; docs/divergence.md has what is taken here.
"""

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lam_jax.data.readers import IMAGE_TAG, Drops
from lam_jax.data.schemas import Example, Message, Where, describe, first_places

Row = dict[str, Any]
Placed = tuple[Row, Where]
DESCRIBE = ("What does this picture show?", "Describe this picture.", "Write a caption for this picture.")


@runtime_checkable
class Reader(Protocol):
    """Rows of sources, in the order of files and of records in them.

    With `light` the pictures that lie inside rows (Parquet) are not read and stand as no bytes; which rows come, and in
    which order, is the same.

    Raises:
        DataError: a source that does not exist or is of another kind.
    """

    def __call__(
        self, sources: Sequence[Path], images: Path | None, drops: Drops, light: bool = False
    ) -> Iterator[Placed]:
        """See the class."""
        ...


class Odd(Exception):
    """Why a record makes no row; `reason` is what it is counted under."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def counted(records: Iterable[tuple[Where, Any]], make: Callable[[Any, Where], Row], drops: Drops) -> Iterator[Placed]:
    """Rows that `make(record, where)` gives of records; `Odd` ones are counted."""
    for where, record in records:
        try:
            yield make(record, where), where
        except Odd as odd:
            drops.add(odd.reason, where, odd.detail)


def chat(request: str, answer: str) -> list[Message]:
    """A request and its answer."""
    return [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]


def pick(requests: Sequence[str], identifier: str) -> str:
    """One of the requests, the same for a row each time."""
    return requests[zlib.crc32(identifier.encode(errors="replace")) % len(requests)]


def mapping(record: Any) -> dict[str, Any]:
    """The record, which has to be an object."""
    if not isinstance(record, dict):
        raise Odd("no object", describe(record))
    return record


def text(record: dict[str, Any], key: str) -> str:
    """A text of a record without blank ends; empty where it is missing, null, or no text."""
    value = record.get(key)
    return value.strip() if isinstance(value, str) else ""


def stored_messages(example: Example) -> list[dict[str, Any]]:
    """The messages of an example, from which `chat_examples` makes it again.

    Where its pictures do not stand first, or a text holds a literal `<image>`, contents are lists of parts.
    """
    tagged = any(IMAGE_TAG in message["content"] for message in example.messages)
    if not tagged and example.places == first_places(example.messages, len(example.images)):
        return [dict(message) for message in example.messages]
    places = [[at for number, at in example.places if number == i] for i in range(len(example.messages))]
    return [
        {**message, "content": _parts(message["content"], own)}
        for message, own in zip(example.messages, places, strict=True)
    ]


def _parts(text: str, places: Sequence[int]) -> str | list[dict[str, str]]:
    """A content whose tags are text, its pictures before the characters `places`."""
    if not places and IMAGE_TAG not in text:
        return text
    parts: list[dict[str, str]] = []
    for start, stop in itertools.pairwise((0, *places, len(text))):
        parts += ([{"type": "text", "text": text[start:stop]}] if stop > start else []) + [{"type": "image"}]
    return parts[:-1]
