"""Rows that cannot be used: an error that names them, or left out and counted.

Two kinds: a reader refuses a row (`tolerant`), or its pictures or text turn out to be bad when a batch is made
(`BadRowError`). Which rows a reader refuses depends on the content of the files alone, which belongs to a run; whether
a picture can be read may change while a run goes on, so it is asked when the batch is made, and the row keeps its
place in the stream.
"""

import collections
import contextlib
import contextvars
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.data.schemas import DataError, Example, ImageSource, Where

# Why a row is skipped when its batch is made; names of metrics.
MISSING, BROKEN, TOO_LARGE, BAD_TEXT = "missing_picture", "broken_picture", "too_large_pictures", "bad_text"
REASONS = (MISSING, BROKEN, TOO_LARGE, BAD_TEXT)
HINT = "`lam-jax data check` lists all such rows; `lam-jax train` goes on without them with --bad-rows skip."


class BadRowError(DataError):
    """A row whose pictures or text cannot become part of a batch.

    Attributes:
        where: the row.
        reason: one of `REASONS`.
        text: what is wrong, the row and the picture named.
        picture: path of the picture that is bad, if it is one and has a path.
    """

    def __init__(self, where: Where, reason: str, text: str, picture: str | None = None):
        ValueError.__init__(self, f"{text.rstrip()} {HINT}")
        self.where, self.reason, self.text, self.picture = where, reason, text, picture
        self.key = None if reason == BAD_TEXT else "images"
        self.found, self.expected, self.fix = text, "a row that can be used", HINT

    def __reduce__(self):
        return BadRowError, (self.where, self.reason, self.text, self.picture)


@contextlib.contextmanager
def hinted() -> Iterator[None]:
    """Inside, errors about a row of a file also say how to find all such rows and how to go on without them."""
    try:
        yield
    except BadRowError:
        raise
    except DataError as error:
        if error.where.row is None:
            raise
        raise DataError(error.where, error.key, error.found, error.expected, f"{error.fix} {HINT}") from error


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A bad row that another took the place of, or that was left out.

    Attributes:
        where, id: of the row.
        reason, text, picture: see `BadRowError`.
        place: of the row in its part of the batch.
        replaced_by: place of the row that was taken; None: none was.
    """

    where: Where
    id: str
    reason: str
    text: str
    picture: str | None
    place: int
    replaced_by: Where | None = None

    @classmethod
    def of(cls, example: Example, error: BadRowError, place: int) -> "Skipped":
        """The record of a row and what is wrong with it."""
        return cls(example.where, example.id, error.reason, error.text, error.picture, place)


@dataclasses.dataclass(frozen=True)
class Skip:
    """What is done with bad rows instead of ending the run.

    Attributes:
        log: is told of each that was skipped, in the order of the batches.
        most: share of the rows that may be bad; above it the run ends.
    """

    log: Callable[[Sequence[Skipped]], None]
    most: float = 1.0

    def require_few(self, bad: int, rows: int, last: str) -> None:
        """Raises DataError if too many of `rows` rows are bad; `last`: what is wrong with one of them."""
        if bad > self.most * rows:
            raise too_many(bad, rows, self.most, last)


def too_many(bad: int, rows: int, most: float, text: str) -> DataError:
    """The error for more bad rows than the run may skip."""
    return DataError(
        Where("bad rows"),
        None,
        f"{bad} of {rows} rows that cannot be used; one of them: {text}",
        f"at most {most:.0%} of them",
        "`lam-jax data check` lists them; correct them, or raise --max-bad-share.",
    )


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of a row.

    Attributes:
        source: bytes, or the path of a file.
        where: the row.
        index: among the row's pictures.
    """

    source: ImageSource
    where: Where
    index: int = 0

    @property
    def path(self) -> str | None:
        """Where it is a file."""
        return str(self.source) if isinstance(self.source, Path) else None

    def __str__(self) -> str:
        name = self.path or self.index or None  # the only one of a row without a path needs no name
        return str(self.where) if name is None else f"{self.where}, picture {name}"


def pictures_of(example: Example) -> list[Picture]:
    """The pictures of a row, in order."""
    return [Picture(source, example.where, index) for index, source in enumerate(example.images)]


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A row that a reader left out: where it is, why (few words, alike for rows alike), and the whole message."""

    where: Where
    reason: str
    text: str
    picture: str | None = None


@dataclasses.dataclass
class Tally:
    """Rows that were read and those that were left out; a row counts once, however often it is read.

    Attributes:
        rows: read, good or bad.
        dropped: by the row.
        duplicates: examples whose id another has, with the message.
    """

    rows: set[str] = dataclasses.field(default_factory=set)
    dropped: dict[str, Dropped] = dataclasses.field(default_factory=dict)
    duplicates: list[tuple[Example, str]] = dataclasses.field(default_factory=list)

    def saw(self, where: Where) -> None:
        """A row was read."""
        self.rows.add(str(where))

    def drop(self, where: Where, reason: str, text: str = "", picture: str | None = None) -> None:
        """A row was left out."""
        self.saw(where)
        self.dropped.setdefault(str(where), Dropped(where, reason, text or f"{where}: {reason}", picture))

    def add(self, other: "Tally") -> None:
        """The rows of another tally too."""
        self.rows |= other.rows
        self.dropped |= other.dropped

    @property
    def reasons(self) -> dict[str, int]:
        """Number of rows that were left out, by reason, the commonest first."""
        return dict(collections.Counter(row.reason for row in self.dropped.values()).most_common())

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return f"{len(self.dropped)} of {len(self.rows)} rows left out" + (f" ({reasons})" if reasons else "")


_TALLY: contextvars.ContextVar[Tally | None] = contextvars.ContextVar("tally", default=None)


@contextlib.contextmanager
def tolerant(wanted: bool = True) -> Iterator[Tally]:
    """Inside, readers put rows that they refuse on the tally instead of ending; with `wanted` false nothing changes.

    Whether a picture's file exists is left to when it is decoded.
    """
    tally = Tally()
    token = _TALLY.set(tally if wanted else None)
    try:
        yield tally
    finally:
        _TALLY.reset(token)


def tally_of_reading() -> Tally | None:
    """The tally of the `tolerant` block around the caller; None: there is none, a bad row is an error."""
    return _TALLY.get()


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Stands for a row that is not even parsed (a broken line of JSON Lines), so that the others keep their index."""

    error: DataError


def tried(parse: Callable[..., list[Example]], row: Any, where: Where, *rest: Any) -> list[Example]:
    """`parse(row, where, *rest)`; inside `tolerant`, a row that it refuses is put on the tally and gives nothing.

    Raises:
        DataError: outside of `tolerant`, what `parse` raises.
    """
    tally = tally_of_reading()
    if tally is not None:
        tally.saw(where)
    try:
        if isinstance(row, Unreadable):
            raise row.error
        return parse(row, where, *rest)
    except Exception as error:  # a reader of the user's own may raise anything
        if tally is None:
            raise
        text = str(error) if isinstance(error, DataError) else f"{where}: {type(error).__name__}: {error}"
        tally.drop(where, reason_of(error), text, picture_in(row))
        return []


def reason_of(error: Exception) -> str:
    """Few words that are the same for rows that are bad in one way."""
    if not isinstance(error, DataError):
        return type(error).__name__
    if isinstance(error, BadRowError):
        return error.reason.replace("_", " ")
    key = re.sub(r"\[\d+\]", "[]", error.key) if error.key else ""
    return f"{key}: expected {error.expected}" if key else f"expected {error.expected}"


def picture_in(row: Any) -> str | None:
    """The path of the first picture of a raw row, as it is written there."""
    if not isinstance(row, dict):
        return None
    for key in ("image", "images", "image_path"):
        value = row.get(key)
        value = value[0] if isinstance(value, list) and value else value
        value = value.get("file_path") if isinstance(value, dict) else value
        if isinstance(value, str):
            return value if len(value) < 1000 else f"{value[:40]}.."
    return None
