"""What every reader of a raw data set gives: pre-training rows with their places.

A row is `{"id", "messages": [{"role", "content"}], "instance_type"}` and, where it has pictures, `"images"`: files,
parts of files, or bytes. A reader counts what it leaves out; it looks at no picture, but for whether its file is there.

Captions and plain texts become chats: a short request by the user, then the text as the assistant's answer. Neither the
paper nor the released code says how; docs/divergence.md has what is taken here.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lam_jax.data.readers import Drops
from lam_jax.data.schemas import Message, Where, describe

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
