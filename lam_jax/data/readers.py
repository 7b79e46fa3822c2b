"""JSON and JSON Lines data files: opening them, counting what is dropped, and the pre-training format.

Pre-training rows (paired, or text-only without `images`) are
`{"id", "images": [path], "messages": [{"role", "content"}], "instance_type"}`. A literal `<image>` in a message is
stripped, since the picture goes first in the first user turn; the released code kept it as text (`keep_image_tag`).
Every `*_examples(row, ...)` function of this package turns one row into examples; files only feed it rows.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lam_jax.data.bad_rows import Unreadable, tally_of_reading, tried
from lam_jax.data.schemas import DataError, Example, ImageSource, Message, Where, describe, field, require_reference

IMAGE_TAG = "<image>"


MOST_PLACES = 10_000  # of one reason: places are for a person to look at, counts are exact


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A row that was left out."""

    reason: str
    where: Where
    detail: str = ""


@dataclasses.dataclass
class Drops:
    """Rows left out while reading, by reason.

    Attributes:
      counts: rows by reason.
      places: where the rows stand that were added with a place, at most `MOST_PLACES` of each reason.
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    places: list[Dropped] = dataclasses.field(default_factory=list)

    def add(self, reason: str, where: Where | None = None, detail: str = "") -> None:
        """Count one row; inside `tolerant` it goes on the tally too."""
        self.counts[reason] += 1
        if where is None:
            return
        if self.counts[reason] <= MOST_PLACES:
            self.places.append(Dropped(reason, where, detail))
        if (tally := tally_of_reading()) is not None:
            tally.drop(where, reason, f"{where}: {reason}{detail and f' ({detail})'}")

    @property
    def total(self) -> int:
        """Number of rows left out."""
        return sum(self.counts.values())

    def first(self, reason: str) -> Dropped | None:
        """The first row that was left out for a reason, if its place is known."""
        return next((dropped for dropped in self.places if dropped.reason == reason), None)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.counts.items()))
        return f"{self.total} rows dropped" + (f" ({reasons})" if reasons else "")


def _text(path: Path) -> str:
    where = Where(str(path))
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(where, None, str(error.strerror), "a readable JSON file", "Check the path.") from error
    except UnicodeDecodeError as error:
        found = f"a byte that is not UTF-8 at offset {error.start}"
        raise DataError(where, None, found, "UTF-8 text", "Re-encode or re-download the file.") from error


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
      DataError: the file is missing, is not UTF-8, or is not JSON; names line and column.
    """
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        found = f"{error.msg} at line {error.lineno}, column {error.colno}"
        fix = "The file is cut or edited; re-download it."
        if error.msg == "Extra data":
            fix = "One object a line is JSON Lines: name the file .jsonl."
        raise DataError(Where(str(path)), None, found, "valid JSON", fix) from error


def read_rows(path: Path) -> list[Any]:
    """Rows of a JSON file whose top level is a list, or of a .jsonl file with one a line; blank lines do not count.

    Raises:
      DataError: the file cannot be read, or holds something else than a list.
    """
    if path.suffix == ".jsonl":
        return _read_lines(path)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(Where(str(path)), None, f"a top-level {type(rows).__name__}", "a list of rows", "Wrap it.")
    return rows


def _read_lines(path: Path) -> list[Any]:
    rows = []
    # Not splitlines(): JSON text may hold other line ends, such as U+2028.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                found = f"{error.msg} at column {error.colno}"
                fix = "The file is cut or edited; correct or drop the line."
                bad = DataError(Where(f"{path}, line {number}"), None, found, "a JSON object", fix)
                if tally_of_reading() is None:
                    raise bad from error
                rows.append(Unreadable(bad))
    return rows


def resolve_image(value: Any, image_root: Path | None, where: Where, key: str) -> ImageSource:
    """An image value of a row as bytes, or as the path of an existing file under `image_root`.

    Raises:
      DataError: the value is neither path nor bytes, or no such file exists.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise DataError(where, key, describe(value), "an image path", "Correct the row.")
    path = (image_root or Path()) / value
    # Where bad rows are skipped, a file that is gone must not move the rows after it: it is missed when it is opened.
    if tally_of_reading() is None and not path.is_file():
        raise DataError(
            where, key, f"no file {path}", "an image file", "Fetch it, correct image_root, or drop the row."
        )
    return path


def strip_image_tag(text: str) -> str:
    """`text` without literal `<image>` tags and the blank space that they leave at its ends."""
    return text.replace(IMAGE_TAG, "").strip() if IMAGE_TAG in text else text


def text_messages(values: Any, where: Where, key: str, keep_image_tag: bool) -> tuple[Message, ...]:
    """Checked `{"role", "content"}` messages, image tags stripped unless they are kept."""
    messages = []
    for index, value in enumerate(values):
        place = Where(f"{where}, {key}[{index}]")
        content = field(value, "content", str, place)
        if not keep_image_tag:
            content = strip_image_tag(content)
        messages.append(Message(role=field(value, "role", str, place), content=content))
    return tuple(messages)


def pretraining_examples(
    row: Any, where: Where, image_root: Path | None = None, keep_image_tag: bool = False
) -> list[Example]:
    """The example of one pre-training row; `images` is absent in text-only rows.

    Raises:
      DataError: a key is missing or of a wrong type, an image file does not exist, or the last message is not the
        assistant's.
    """
    return [require_reference(_example(row, where, image_root, keep_image_tag))]


def _example(row: Any, where: Where, image_root: Path | None, keep_image_tag: bool = False) -> Example:
    identifier = str(field(row, "id", (str, int), where))
    messages = text_messages(field(row, "messages", list, where), where, "messages", keep_image_tag)
    values = field(row, "images", list, where) if row.get("images") is not None else ()
    images = tuple(resolve_image(value, image_root, where, f"images[{i}]") for i, value in enumerate(values))
    return Example(identifier, messages, images, row_facts(row, where), where)


def row_facts(row: Mapping[str, Any], where: Where) -> dict[str, Any] | None:
    """The optional rubric facts of a row."""
    return field(row, "facts", dict, where) if row.get("facts") is not None else None


def read_examples(rows: Iterable[Any], name: str, parse: Callable[[Any, Where], list[Example]]) -> list[Example]:
    """Examples of all rows, in order; `parse(row, where)` is one of the `*_examples` functions."""
    return [example for index, row in enumerate(rows) for example in tried(parse, row, Where(name, index))]


def read_pretraining(path: Path, image_root: Path | None = None, keep_image_tag: bool = False) -> list[Example]:
    """Examples of a paired or a text-only pre-training file.

    Raises:
      DataError: the file or one of its rows is bad.
    """

    def parse(row: Any, where: Where) -> list[Example]:
        return pretraining_examples(row, where, image_root, keep_image_tag)

    return read_examples(read_rows(path), str(path), parse)


def chat_examples(row: Any, where: Where, image_root: Path | None = None) -> list[Example]:
    """The example of one row `{"id", "image" or "images", "messages"}`; an assistant message last is the reference.

    Raises:
      DataError: a key is missing, unknown or of a wrong type, or an image file does not exist.
    """
    known = ("id", "image", "images", "messages", "facts", "instance_type")
    if isinstance(row, Mapping) and (unknown := sorted(set(row) - set(known))):
        raise DataError(where, str(unknown[0]), "a key that is not read", f"some of {known}", "Rename or drop the key.")
    if isinstance(row, Mapping) and row.get("image") is not None:
        if row.get("images") is not None:
            raise DataError(where, "image", "both 'image' and 'images'", "one of them", "Drop one of the keys.")
        row = {**row, "images": [field(row, "image", (str, bytes), where)]}
    return [_example(row, where, image_root)]


def released_examples(row: Any, where: Where, image_root: Path | None = None) -> list[Example]:
    """As `pretraining_examples`, literal `<image>` tags kept as text: the released code's reading."""
    return pretraining_examples(row, where, image_root, keep_image_tag=True)
