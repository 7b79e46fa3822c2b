"""The one row type that every reader produces and every consumer reads, and the error that names a bad row.

`Example` is a chat of text messages that ends in the reference answer, where it has one, with its pictures and, for the
built-in data set, the facts that the rubric scores against. Pictures are encoded bytes, or paths that are opened only
when a batch is built: the real pre-training sets hold hundreds of thousands.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

ROLES = ("system", "user", "assistant")
ImageSource = bytes | Path
_HALF = re.compile("[\ud800-\udfff]")
Place = tuple[int, int]  # index of a message, and the character of its content before which a picture stands


class Message(TypedDict):
    """One turn of a chat; `role` is one of `ROLES`."""

    role: str
    content: str


class DataError(ValueError):
    """A data file, row or key that cannot be used: where it is, what was found, what was expected, what to do."""

    def __init__(self, where: "Where", key: str | None, found: str, expected: str, fix: str):
        place = f"{where}, key {_cut(key, 100)!r}" if key is not None else str(where)
        super().__init__(f"{place}: found {_cut(found)}; expected {_cut(expected)}. {_cut(fix)}")
        self.where, self.key, self.found, self.expected, self.fix = where, key, found, expected, fix

    def __reduce__(self):
        return DataError, (self.where, self.key, self.found, self.expected, self.fix)


def _cut(text: str, most: int = 600) -> str:
    """A text for a message: rows may hold megabytes where a name is expected."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


@dataclasses.dataclass(frozen=True)
class Where:
    """Place of a row: the file (or data set) it came from and its index in there."""

    file: str
    row: int | None = None

    def __str__(self) -> str:
        return self.file if self.row is None else f"{self.file}, row {self.row}"


def describe(value: Any) -> str:
    """Short text for an error message: the type, and the value when it is small."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no integers of thousands of digits
        return f"{type(value).__name__} that is too large to show"
    return f"{type(value).__name__} {text}" if len(text) <= 60 else f"{type(value).__name__} {text[:57]}..."


def field(row: Any, key: str, kind: type | tuple[type, ...], where: Where, fix: str = "Add or correct the key.") -> Any:
    """`row[key]` of type `kind`.

    Raises:
      DataError: `row` is no mapping, the key is missing, or its value has another type.
    """
    names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
    if not isinstance(row, Mapping):
        raise DataError(where, None, describe(row), f"an object with the key {key!r}", "Correct the row.")
    if key not in row:
        raise DataError(where, key, f"no such key (keys: {', '.join(map(str, sorted(row))) or 'none'})", names, fix)
    value = row[key]
    if not isinstance(value, kind):
        raise DataError(where, key, describe(value), names, fix)
    return value


@dataclasses.dataclass(frozen=True)
class Example:
    """One row: a chat whose last message is the assistant's reference answer.

    Attributes:
      id: name of the row, unique within its data set.
      messages: turns; an optional system message first, then user and assistant in turn as they come. Where the last is
        the assistant's, it is the reference answer.
      images: pictures of the row, PNG or JPEG bytes or paths, in the order in which they stand in the text.
      facts: what the rubric needs to know about the row, or None.
      where: where the row was read, for messages.
      places: where each picture stands, (index of a user's message, character of its content before which it stands).
        By default all stand first in the first user turn.

    Raises:
      DataError: on a bad role, no messages, an empty reference, a misplaced system message, an image without user turn,
        a place that is none, or half a surrogate pair in a text.
    """

    id: str
    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...] = ()
    facts: dict[str, Any] | None = None
    where: Where = dataclasses.field(default=Where("example"), compare=False, repr=False)
    places: tuple[Place, ...] = ()

    def __post_init__(self):
        require_text(self.id, self.where, "id")
        require_text(self.facts, self.where, "facts")
        for index, message in enumerate(self.messages):
            key = f"messages[{index}]"
            role = field(message, "role", str, self.where)
            require_text(field(message, "content", str, self.where), self.where, f"{key}.content")
            if role not in ROLES:
                raise DataError(self.where, f"{key}.role", describe(role), f"one of {ROLES}", "Rename the role.")
            if role == "system" and index > 0:
                raise DataError(self.where, key, "a system message", "one as first message only", "Move or drop it.")
        if not self.messages or self.messages[-1]["role"] == "system":
            found = describe(self.messages[-1]) if self.messages else "no messages"
            raise DataError(self.where, "messages", found, "a user message to answer", "Drop the row.")
        if self.has_reference and not self.reference.strip():
            found = describe(self.messages[-1])
            raise DataError(
                self.where, "messages", found, "a non-empty assistant message last", "Drop the message or the row."
            )
        if self.images and all(message["role"] != "user" for message in self.messages):
            raise DataError(self.where, "images", "images but no user turn", "a user turn to put them in", "Add one.")
        if self.images and not self.places:
            object.__setattr__(self, "places", first_places(self.messages, len(self.images)))
        if len(self.places) != len(self.images):
            found = f"{len(self.places)} places for {len(self.images)} pictures"
            raise DataError(self.where, "places", found, "one for each picture", "Give as many, or none.")
        for index, offset in self.places:
            if not (0 <= index < len(self.messages) and self.messages[index]["role"] == "user"):
                found = f"a picture in message {index}"
                raise DataError(self.where, "places", found, "the index of a user's message", "Move the picture.")
            if not 0 <= offset <= len(self.messages[index]["content"]):
                found, expected = f"a picture at character {offset} of message {index}", "a place inside its content"
                raise DataError(self.where, "places", found, expected, "Correct the offset.")
        if list(self.places) != sorted(self.places):
            found = f"pictures at {list(self.places)}"
            raise DataError(self.where, "places", found, "the order of the text", "Order pictures as they stand in it.")

    @property
    def has_reference(self) -> bool:
        """The last message is the assistant's."""
        return self.messages[-1]["role"] == "assistant"

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the reference answer."""
        return self.messages[:-1] if self.has_reference else self.messages

    @property
    def reference(self) -> str:
        """The reference answer.

        Raises:
          DataError: the row has none.
        """
        require_reference(self)
        return self.messages[-1]["content"]


def first_places(messages: Sequence[Message], pictures: int) -> tuple[Place, ...]:
    """Places of pictures that go first in the first user turn; none where there is no user turn."""
    first = next((index for index, message in enumerate(messages) if message["role"] == "user"), None)
    return () if first is None else ((first, 0),) * pictures


def _is_whole(value: Any) -> bool:
    """Whether no text in there has half a surrogate pair; every text of every row is looked at."""
    kind = type(value)
    if kind is str:
        return value.isascii() or _HALF.search(value) is None
    if kind is dict:
        return all(map(_is_whole, value)) and all(map(_is_whole, value.values()))
    return kind in (int, float, bool, type(None)) or (kind in (list, tuple) and all(map(_is_whole, value)))


def require_text(value: Any, where: Where, key: str) -> None:
    """Raises DataError if a text, or one inside of lists and mappings, holds half a surrogate pair: no token is it."""
    if _is_whole(value):
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            found = f"half a surrogate pair ({half}) at character {error.start}"
            fix = "Text was cut inside a character or escaped wrongly: write the whole character, or drop the row."
            raise DataError(where, key, found, "text", fix) from error
    elif isinstance(value, Mapping):
        for name, item in value.items():
            require_text(name, where, key)
            require_text(item, where, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            require_text(item, where, f"{key}[{index}]")


def require_reference(example: Example) -> Example:
    """The example, if its last message is the assistant's.

    Raises:
      DataError: it is not.
    """
    if not example.has_reference:
        raise DataError(
            example.where,
            "messages",
            f"no reference answer: the last message is the {example.messages[-1]['role']}'s",
            "an assistant message last",
            "Add one; `lam-jax train own --sft` takes rows with answers from a file of their own.",
        )
    return example


def image_bytes(source: ImageSource, where: Where) -> bytes:
    """Encoded bytes of a picture.

    Raises:
      DataError: the file is missing or cannot be read.
    """
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        fix = "Restore the file, or drop the row."
        raise DataError(where, "images", f"{source} ({error.strerror})", "a readable image file", fix) from error
