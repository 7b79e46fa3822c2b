"""Where rows come from, as values: a recipe names its sources, and a run opens them.

`JsonRows` reads files of one's own; the built-in world and the benchmark tasks have sources of their own.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from lam_jax.data.bad_rows import tally_of_reading, tried
from lam_jax.data.files import hash_files as hash_files
from lam_jax.data.files import hash_rows, read_rows
from lam_jax.data.readers import pretraining_examples
from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.data.splits import SEED, cut, shuffled

logger = logging.getLogger("lam_jax")


@runtime_checkable
class RowSource(Protocol):
    """Examples by split. A recipe holds sources, so each is a frozen dataclass of plain values."""

    def prepare(self, folder: Path) -> None:
        """Builds in `folder` whatever reading needs; called by one process, done already or not."""
        ...

    def read(self, folder: Path, split: str) -> Sequence[Example]:
        """The examples of a split, in the order of the rows.

        Raises:
            DataError: no such split, or a row that cannot be used.
        """
        ...

    def content(self) -> str:
        """A hash of what is read, which belongs to the run: other rows under the same names are another run."""
        ...


@runtime_checkable
class ShrinkableRows(Protocol):
    """A source that can do with fewer rows, for smoke runs."""

    def shrunk(self, rows: int) -> RowSource:
        """The source with about so many rows, the same ones each time."""
        ...


@dataclasses.dataclass(frozen=True)
class JsonRows:
    """Rows of one file or folder (`lam_jax.data.files`), cut into splits after a shuffle.

    Attributes:
        file: JSON, JSON Lines, either with .gz or .zst, Parquet, or a folder that `datasets` saved.
        splits: name -> (from, to), shares of the shuffled rows. A split that would be empty gets one row, which
            another may have too.
        image_root: what relative picture paths start from, and pictures must lie in; default: the file's own folder.
        parse: makes examples of a row; default: `pretraining_examples`, which reads all of `lam_jax.data.layouts`; one
            with other settings is a `RowParser`.
        seed: of the shuffle.
        limit: most rows that are used, after the shuffle; None: all.
    """

    file: str
    splits: Mapping[str, tuple[float, float]]
    image_root: str | None = None
    parse: Callable[..., list[Example]] = pretraining_examples
    seed: int = SEED
    limit: int | None = None

    def __post_init__(self):
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"JsonRows.limit is {self.limit}, expected at least 1 row of {self.file}, or None.")
        for name, (start, stop) in self.splits.items():
            if not 0.0 <= start < stop <= 1.0:
                raise ValueError(
                    f"JsonRows.splits[{name!r}] is {(start, stop)}, expected shares 0 <= from < to <= 1 of {self.file}."
                )

    def prepare(self, folder: Path) -> None:
        """Nothing: the file is read as it is."""

    def read(self, folder: Path, split: str) -> list[Example]:
        """The examples of a split.

        Raises:
            DataError: no such split, the file cannot be read or is empty, a row is bad, or two rows have one id.
        """
        if split not in self.splits:
            raise DataError(
                Where(self.file), None, f"no split {split!r}", f"one of {sorted(self.splits)}", "Correct the name."
            )
        path = Path(self.file)
        rows = list(enumerate(read_rows(path)))
        if not rows:
            raise DataError(Where(self.file), None, "an empty list", "one row or more", "Add rows.")
        start, stop = self.splits[split]
        mixed = shuffled(rows, self.seed)[: self.limit]
        chosen = cut(mixed, start, stop)
        if not chosen:
            chosen = mixed[int(start * len(mixed)) :][:1]
            logger.warning(
                "%s: the split %r, shares %s to %s of %d rows, holds none; it gets a row that others may have too.",
                *(self.file, split, start, stop, len(mixed)),
            )
        root = Path(self.image_root) if self.image_root else home_of(path)
        examples = [e for index, row in chosen for e in tried(self.parse, row, Where(self.file, index), root)]
        require_unique(examples)
        return examples

    def shrunk(self, rows: int) -> "JsonRows":
        """The first rows of the shuffled ones; all splits together."""
        return dataclasses.replace(self, limit=min(rows, self.limit or rows))

    def content(self) -> str:
        """SHA-256 of the file, or of a folder's files; pictures beside it count by their paths."""
        return hash_rows(Path(self.file))


@dataclasses.dataclass(frozen=True)
class SplitRows:
    """Splits that come from different sources.

    Attributes:
        sources: name of a split -> the source that it comes from, under the same name.
    """

    sources: Mapping[str, RowSource]

    def prepare(self, folder: Path) -> None:
        """Prepares each source."""
        for source in self._each():
            source.prepare(folder)

    def read(self, folder: Path, split: str) -> Sequence[Example]:
        """The examples of a split.

        Raises:
            DataError: no such split, or what its source raises.
        """
        if split not in self.sources:
            known = f"one of {sorted(self.sources)}"
            raise DataError(Where("splits"), None, f"no split {split!r}", known, "Correct the name.")
        return self.sources[split].read(folder, split)

    def shrunk(self, rows: int) -> "SplitRows":
        """Each source with so many rows, where it can."""
        return SplitRows({name: shrunk(source, rows) for name, source in self.sources.items()})

    def content(self) -> str:
        """A hash of the sources' hashes."""
        return hashlib.sha256(" ".join(source.content() for source in self._each()).encode()).hexdigest()

    def _each(self) -> list[RowSource]:
        found: list[RowSource] = []
        for source in self.sources.values():
            if source not in found:
                found.append(source)
        return found


def shrunk(source: RowSource, rows: int) -> RowSource:
    """A source with about so many rows, or as it is where it cannot do with fewer."""
    return source.shrunk(rows) if isinstance(source, ShrinkableRows) else source


def home_of(path: Path) -> Path:
    """The folder that relative picture paths of a file or folder of rows start from."""
    return path if path.is_dir() else path.parent


def require_unique(examples: Sequence[Example]) -> None:
    """Raises DataError if two examples have one id: scores are keyed by it. Inside `tolerant`, it goes on the tally."""
    known: dict[str, Example] = {}
    tally = tally_of_reading()
    for example in examples:
        if example.id in known:
            error = _twice(example, known[example.id])
            if tally is None:
                raise error
            tally.duplicates.append((example, str(error)))
        known.setdefault(example.id, example)


def require_unique_splits(rows: RowSource, splits: Mapping[str, Sequence[Example]], scored: Collection[str]) -> None:
    """Checks the ids of a source's splits, within each and between them; one row may be in two splits.

    Inside `tolerant`, rows with the id of one in an earlier split go on the tally, and nothing is warned of.

    Between files that are numbered apart from each other an id may recur, which is warned of, unless rows of both are
    scored and the source was put together of several.

    Args:
        rows: where the splits come from.
        splits: rows by the name of their split.
        scored: names of splits whose answers are scored.

    Raises:
        DataError: two rows have one id.
    """
    tally = tally_of_reading()
    known: dict[str, tuple[str, Example]] = {}
    recurring: list[tuple[Example, Example]] = []
    for name, examples in splits.items():
        require_unique(examples)
        for example in examples:
            first, other = known.setdefault(example.id, (name, example))
            if first == name or (other.where == example.where and other == example):
                continue
            both = first in scored and name in scored
            if other.where.file == example.where.file or (both and isinstance(rows, SplitRows)):
                if tally is None:
                    raise _twice(example, other)
                tally.duplicates.append((example, str(_twice(example, other))))
            else:
                recurring.append((example, other))
    if recurring and tally is None:
        example, other = recurring[0]
        logger.warning(
            "%d ids are those of rows in two files, %s for one in %s and in %s: if these are the same rows, some are "
            "trained on and scored.",
            *(len(recurring), _shown(example.id), other.where, example.where),
        )


def _twice(example: Example, other: Example) -> DataError:
    found = f"{_shown(example.id)}, which {other.where} has too"
    return DataError(example.where, "id", found, "an id of its own", "Rename one of them.")


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 120 else f"{name[:117]!r}..."
