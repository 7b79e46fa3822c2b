"""Where rows come from, as values: a recipe names its sources, and a run opens them.

`JsonRows` reads files of one's own; the built-in world and the benchmark tasks have sources of their own.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from lam_jax.data.bad_rows import tally_of_reading, tried
from lam_jax.data.readers import pretraining_examples, read_rows
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
    """Rows of one JSON file (a list of objects), cut into splits after a shuffle.

    Attributes:
        file: the file.
        splits: name -> (from, to), shares of the shuffled rows. A split that would be empty gets one row, which
            another may have too.
        image_root: what relative picture paths start from; default: the file's own folder.
        parse: makes examples of a row; default: the chat format `{"id", "images", "messages"}`.
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
        rows = list(enumerate(read_rows(Path(self.file))))
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
        root = Path(self.image_root) if self.image_root else Path(self.file).parent
        examples = [e for index, row in chosen for e in tried(self.parse, row, Where(self.file, index), root)]
        require_unique(examples)
        return examples

    def shrunk(self, rows: int) -> "JsonRows":
        """The first rows of the shuffled ones; all splits together."""
        return dataclasses.replace(self, limit=min(rows, self.limit or rows))

    def content(self) -> str:
        """SHA-256 of the file; pictures count by their paths."""
        return hash_files([Path(self.file)])


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


def require_unique(examples: Sequence[Example]) -> None:
    """Raises DataError if two examples have one id: scores are keyed by it. Inside `tolerant`, it goes on the tally."""
    known: dict[str, Example] = {}
    tally = tally_of_reading()
    for example in examples:
        if example.id in known:
            found = f"{example.id!r}, which {known[example.id].where} has too"
            error = DataError(example.where, "id", found, "an id of its own", "Rename one of them.")
            if tally is None:
                raise error
            tally.duplicates.append((example, str(error)))
        known.setdefault(example.id, example)


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in order.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DataError(
                Where(str(file)), None, str(error.strerror), "a readable file", "Check the path."
            ) from error
    return digest.hexdigest()
