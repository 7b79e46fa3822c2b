"""Rows to examples, and counting what is dropped.

Every `*_examples(row, where, ...)` function of this package turns one row into examples; files only feed it rows. Those
here read every layout of `lam_jax.data.layouts`, and differ in what an `<image>` tag means and whether a row needs an
answer. Pre-training rows of the paper (paired, or text-only without `images`) are
`{"id", "images": [path], "messages": [{"role", "content"}], "instance_type"}`.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lam_jax.data.bad_rows import tally_of_reading, tried
from lam_jax.data.files import iterate_rows, read_json, read_rows
from lam_jax.data.layouts import RowParser, row_facts
from lam_jax.data.pictures import resolve_image
from lam_jax.data.schemas import Example, Where
from lam_jax.data.tags import IMAGE_TAG, strip_image_tag

__all__ = [
    "IMAGE_TAG",
    "Drops",
    "RowParser",
    "chat_examples",
    "iterate_rows",
    "pretraining_examples",
    "read_examples",
    "read_json",
    "read_pretraining",
    "read_rows",
    "released_examples",
    "resolve_image",
    "row_facts",
    "strip_image_tag",
]


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

    def add(self, reason: str, where: Where | None = None, detail: str = "", picture: str | None = None) -> None:
        """Count one row; inside `tolerant` it goes on the tally too."""
        self.counts[reason] += 1
        if where is None:
            return
        if self.counts[reason] <= MOST_PLACES:
            self.places.append(Dropped(reason, where, detail))
        if (tally := tally_of_reading()) is not None:
            tally.drop(where, reason, f"{where}: {reason}{detail and f' ({detail})'}", picture)

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


_CHAT = RowParser()
_PRETRAINING = RowParser(reference=True, tags="text alone")
_RELEASED = RowParser(reference=True, tags="text")


def chat_examples(row: Any, where: Where, image_root: Path | None = None) -> list[Example]:
    """The example of one row of any layout; an assistant message last is the reference.

    `<image>` tags in user turns and pictures must agree: each picture stands where its tag stands; without any tag the
    pictures go first in the first user turn.

    Raises:
      DataError: a key is missing, unknown or of a wrong type, an image file does not exist or lies elsewhere, or tags
        and pictures do not agree.
    """
    return _CHAT(row, where, image_root)


def pretraining_examples(
    row: Any, where: Where, image_root: Path | None = None, keep_image_tag: bool = False
) -> list[Example]:
    """The example of one pre-training row of any layout, paired or text-only; in a text-only row `<image>` is text.

    Args:
      row: the row.
      where: its place.
      image_root: folder that relative paths of pictures start from, and that pictures must lie in.
      keep_image_tag: tags are text in paired rows too, and the picture goes first in the first user turn.

    Raises:
      DataError: as `chat_examples`, or the last message is not the assistant's.
    """
    return (_RELEASED if keep_image_tag else _PRETRAINING)(row, where, image_root)


def released_examples(row: Any, where: Where, image_root: Path | None = None) -> list[Example]:
    """As `pretraining_examples`, literal `<image>` tags kept as text: the released code's reading."""
    return _RELEASED(row, where, image_root)


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
