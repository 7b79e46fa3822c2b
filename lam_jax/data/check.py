"""What a set of rows holds and what of it cannot be used: every row read, every picture decoded, all tokens counted."""

import collections
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lam_jax.data.bad_rows import BAD_TEXT, BadRowError, Picture, Tally, pictures_of
from lam_jax.data.collator import Collator
from lam_jax.data.schemas import Example, Where
from lam_jax.data.workers import picture_grid, picture_pool
from lam_jax.models.processor import Grid, ImageSettings

FEW = 64  # pictures that are decoded sooner than worker processes start
AHEAD = 8  # pictures of each worker that wait for it


@dataclasses.dataclass(frozen=True)
class Part:
    """A split of a source.

    Attributes:
        name: of the split.
        examples: read from it.
        collators: what makes batches of them, by the kind of the batch ("chat", "prompt").
    """

    name: str
    examples: Sequence[Example]
    collators: Mapping[str, Collator]


@dataclasses.dataclass(frozen=True)
class Found:
    """A source of rows as it was read.

    Attributes:
        name: of the source.
        parts: its splits.
        tally: rows read, and those that the reader refused.
        errors: why a split could not be read at all.
    """

    name: str
    parts: Sequence[Part]
    tally: Tally
    errors: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: where it is, and why."""

    source: str
    where: Where
    reason: str
    message: str
    id: str | None = None
    picture: str | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON values: source, file, row (index in the file), id, picture (path), reason, message."""
        place = {"source": self.source, "file": self.where.file, "row": self.where.row}
        return {
            **place,
            "id": self.id,
            "picture": self.picture,
            "reason": self.reason,
            "message": self.message,
        }


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens of the rows of a split, against the longest bucket.

    Attributes:
        split, kind: "chat": whole rows; "prompt": what is answered.
        rows: that could be counted.
        median, longest: tokens of a row before it is cut.
        bucket: most tokens of a row.
        cut: rows that are longer.
        cut_tokens: of those, tokens that are lost, in all.
        cut_median, cut_longest: of one of those.
    """

    split: str
    kind: str
    rows: int
    median: float
    longest: int
    bucket: int
    cut: int
    cut_tokens: int
    cut_median: float
    cut_longest: int

    @property
    def share(self) -> float:
        """Share of the rows that are cut."""
        return self.cut / self.rows if self.rows else 0.0


@dataclasses.dataclass(frozen=True)
class SourceReport:
    """What was found in a source.

    Attributes:
        name: of the source.
        read, kept: rows; those that are not kept are in `bad`.
        examples: that the kept and the bad rows make; a dialogue makes several.
        splits: examples of each.
        pictures: different ones.
        missing, broken: of those.
        duplicates: ids that another row has.
        lengths: by split and kind.
        bad: rows, each once.
        errors: why a split could not be read at all.
    """

    name: str
    read: int
    kept: int
    examples: int
    splits: Mapping[str, int]
    pictures: int
    missing: int
    broken: int
    duplicates: int
    lengths: Sequence[Lengths]
    bad: Sequence[BadRow]
    errors: Sequence[str]

    @property
    def reasons(self) -> dict[str, int]:
        """Bad rows by reason, the commonest first."""
        return dict(collections.Counter(row.reason for row in self.bad).most_common())

    def as_json(self) -> dict[str, Any]:
        """JSON values; bad rows by reason alone."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lengths = [dataclasses.asdict(each) | {"cut_share": each.share} for each in self.lengths]
        return values | {
            "splits": dict(self.splits),
            "dropped": self.read - self.kept,
            "reasons": self.reasons,
            "lengths": lengths,
            "errors": list(self.errors),
            "bad": len(self.bad),
        }


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What was found in all sources."""

    sources: Sequence[SourceReport]

    @property
    def read(self) -> int:
        """Rows."""
        return sum(source.read for source in self.sources)

    @property
    def bad(self) -> list[BadRow]:
        """Rows that cannot be used."""
        return [row for source in self.sources for row in source.bad]

    @property
    def share(self) -> float:
        """Bad rows among those that were read."""
        return len(self.bad) / self.read if self.read else 0.0

    def passes(self, most: float) -> bool:
        """At most this share of the rows is bad, and every split could be read."""
        return self.share <= most and not any(source.errors for source in self.sources)


def check(found: Sequence[Found], workers: int = 0, advance: Callable[[int], None] = lambda done: None) -> CheckReport:
    """Decodes every picture and counts every row; no bad row ends it.

    Args:
        found: sources as they were read.
        workers: processes that decode pictures; 0: this one does.
        advance: is told how many examples are done, now and then.
    """
    return CheckReport([_check_source(source, workers, advance) for source in found])


def _check_source(found: Found, workers: int, advance: Callable[[int], None]) -> SourceReport:
    bad = {
        key: BadRow(found.name, d.where, d.reason, d.text, None, d.picture) for key, d in found.tally.dropped.items()
    }
    rows = set(found.tally.rows)
    owners: dict[str, tuple[Where, str, str]] = {}  # of an id: its place, the key of its row, its split
    duplicates = 0

    def is_bad(example: Example, reason: str, message: str, picture: str | None = None) -> None:
        key = row_key(example)
        bad.setdefault(key, BadRow(found.name, example.where, reason, message, example.id, picture))

    for dropped in found.tally.dropped.values():
        duplicates += dropped.reason == DUPLICATE
    # One at a time: a built source holds the pictures of no more than one.
    for name, example in ((part.name, example) for part in found.parts for example in part.examples):
        key = row_key(example)
        rows.add(key)
        where, owner, split = owners.setdefault(example.id, (example.where, key, name))
        # Files of one source that are numbered apart may share ids, as where `--sft` is a file of its own.
        if owner != key and (split == name or where.file == example.where.file):
            duplicates += 1
            message = f"{example.where}, key 'id': found {example.id!r}, which {where} has too; rename one of them."
            is_bad(example, DUPLICATE, message)
    decoded = _Pictures(workers if _has_pictures(found, FEW) else 0)
    lengths = []
    for part in found.parts:
        counted: dict[str, list[tuple[int, int]]] = {kind: [] for kind in part.collators}
        for number, (example, grids) in enumerate(decoded.of(part)):
            if isinstance(grids, BadRowError):
                is_bad(example, reason_words(grids), grids.text, grids.picture)
            else:
                for kind, collator in part.collators.items():
                    if kind == "chat" and not example.has_reference:
                        continue
                    try:
                        encoded, tokens = collator.fit(example, grids[collator.config.image])
                        counted[kind].append((tokens, len(encoded)))
                    except BadRowError as error:
                        is_bad(example, reason_words(error), error.text, error.picture)
            if number % 32 == 31:
                advance(32)
        lengths += [
            _lengths(part.name, kind, counts, part.collators[kind].config.lengths[-1])
            for kind, counts in counted.items()
            if counts
        ]
    return SourceReport(
        name=found.name,
        read=len(rows),
        kept=len(rows) - len(bad),
        examples=sum(len(part.examples) for part in found.parts),
        splits={part.name: len(part.examples) for part in found.parts},
        pictures=decoded.total,
        missing=decoded.reasons["missing_picture"],
        broken=decoded.reasons["broken_picture"],
        duplicates=duplicates,
        lengths=lengths,
        bad=sorted(bad.values(), key=_place),
        errors=found.errors,
    )


DUPLICATE = "duplicate id"


def row_key(example: Example) -> str:
    """What tells rows apart: the place in a file, or the id where rows have no place."""
    return str(example.where) if example.where.row is not None else f"{example.where}, id {example.id}"


def reason_words(error: BadRowError) -> str:
    """The reason as words."""
    return "text cannot be tokenized" if error.reason == BAD_TEXT else error.reason.replace("_", " ")


def _place(row: BadRow) -> tuple[str, int]:
    """Where a row stands, to list rows in the order of their file."""
    return row.where.file, -1 if row.where.row is None else row.where.row


def _has_pictures(found: Found, count: int) -> bool:
    """Whether there are more than so many."""
    pictures = (picture for part in found.parts for example in part.examples for picture in example.images)
    return next(itertools.islice(pictures, count, None), None) is not None


def _lengths(split: str, kind: str, counts: Sequence[tuple[int, int]], bucket: int) -> Lengths:
    tokens = [whole for whole, _ in counts]
    lost = [whole - kept for whole, kept in counts if whole > kept]
    return Lengths(
        split,
        kind,
        len(counts),
        statistics.median(tokens),
        max(tokens),
        bucket,
        len(lost),
        sum(lost),
        statistics.median(lost) if lost else 0,
        max(lost, default=0),
    )


Grids = dict[ImageSettings, list[Grid]]  # of a row's pictures, under each setting


class _Pictures:
    """Decodes the pictures of rows, a file that several rows have once, and counts the bad ones."""

    def __init__(self, workers: int):
        self.pool = picture_pool(workers) if workers else None
        self.total = 0
        self.reasons: collections.Counter[str] = collections.Counter()
        self._known: dict[tuple[str, ImageSettings], Grid | BadRowError] = {}
        self._seen: set[str] = set()

    def of(self, part: Part) -> Iterator[tuple[Example, Grids | BadRowError]]:
        """Each example with the grids of its pictures, or with what is wrong with one of them."""
        settings = list(dict.fromkeys(collator.config.image for collator in part.collators.values()))
        ahead = AHEAD * self.pool.workers if self.pool else 0
        waiting: collections.deque[tuple[Example, list[Any]]] = collections.deque()
        for example in part.examples:
            waiting.append((example, [self._begin(p, s) for s in settings for p in pictures_of(example)]))
            if len(waiting) > ahead:
                yield self._end(*waiting.popleft(), settings)
        while waiting:
            yield self._end(*waiting.popleft(), settings)

    def _begin(self, picture: Picture, settings: ImageSettings) -> Callable[[], Grid | BadRowError]:
        name = picture.path or (str(picture) if picture.where.row is not None else None)
        key = (name, settings) if name else None
        if key is not None and key in self._known:
            return lambda: _named(self._known[key], picture)
        wait = self.pool.map(picture_grid, [picture], settings) if self.pool else None

        def result() -> Grid | BadRowError:
            if key is not None and key in self._known:
                return _named(self._known[key], picture)
            try:
                found = wait()[0] if wait else picture_grid(picture, settings)
            except BadRowError as error:
                found = error
            if name not in self._seen:  # None, of a picture without a path or a place, never is
                self.total += 1
                self.reasons[found.reason if isinstance(found, BadRowError) else ""] += 1
                self._seen |= {name} if name else set()
            if key is not None:
                self._known[key] = found
            return found

        return result

    def _end(
        self, example: Example, waits: Sequence[Callable[[], Grid | BadRowError]], settings: Sequence[ImageSettings]
    ) -> tuple[Example, Grids | BadRowError]:
        results = [wait() for wait in waits]
        for result in results:
            if isinstance(result, BadRowError):
                return example, result
        count = len(example.images)
        grids: Grids = {s: results[i * count : (i + 1) * count] for i, s in enumerate(settings)}  # pyright: ignore[reportAssignmentType]
        return example, grids


def _named(result: Grid | BadRowError, picture: Picture) -> Grid | BadRowError:
    """The result of a file for another row that has it: an error names that row."""
    if not isinstance(result, BadRowError):
        return result
    text = result.text.replace(str(result.where), str(picture.where), 1)
    return BadRowError(picture.where, result.reason, text, result.picture)
