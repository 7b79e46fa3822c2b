"""Built rows as a source: `BuiltRows("data/llava")` reads a folder that `lam-jax data build` made, a row at a time."""

import dataclasses
import hashlib
import json
import operator
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, overload

from lam_jax.data.readers import chat_examples, pretraining_examples
from lam_jax.data.schemas import DataError, Example, Where

ABOUT, INFO = "about.json", "dataset_info.json"
FORMAT = 1
REBUILD = "Build it again with `lam-jax data build` into an empty folder."
# What a record's row is read by: rows of stages 1 to 4 end in an answer, those of a task need not.
PARSERS = {"pretraining": pretraining_examples, "chat": chat_examples}


@dataclasses.dataclass(frozen=True)
class About:
    """What a built folder says of itself, beside tensorflow-datasets' own `dataset_info.json`.

    Attributes:
        kind: what was built.
        arguments: of the build, its sources with their sizes and times.
        rows: in each split.
        content: a hash of each split's rows and pictures.
        pictures: of a row of each split, the fewest and the most.
        read: rows and records that were read.
        drawn: rows that were drawn of those that could be used.
        dropped: rows left out, by reason.
        parser: a name in `PARSERS`.
        stands_for: rows that the split train stands for where the other side of the pre-training data is longer.
        format: of this file.
    """

    kind: str
    arguments: Mapping[str, Any]
    rows: Mapping[str, int]
    content: Mapping[str, str]
    pictures: Mapping[str, Sequence[int]]
    read: int
    drawn: int
    dropped: Mapping[str, int]
    parser: str = "pretraining"
    stands_for: int | None = None
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Writes it into `folder`."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        (folder / ABOUT).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def of(cls, folder: Path) -> "About":
        """What `folder` says.

        Raises:
            DataError: it is no built folder, or one of another version.
        """
        where = Where(str(folder / ABOUT))
        try:
            value = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            expected = "a folder made by `lam-jax data build`"
            raise DataError(Where(str(folder)), None, f"no {ABOUT}", expected, "Correct the path.") from error
        except (OSError, ValueError) as error:
            raise DataError(where, None, str(error), "readable JSON", REBUILD) from error
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or value.get("format") != FORMAT or not set(value) <= names:
            raise DataError(where, "format", "one of another version", f"format {FORMAT}", REBUILD)
        return cls(**value)


def is_built(path: str | Path) -> bool:
    """Whether a path is a folder of built rows; what `datasets` saved has a file `INFO` too, and no `ABOUT`."""
    return (Path(path) / INFO).is_file() and (Path(path) / ABOUT).is_file()


def built_rows(path: str, side: str) -> "BuiltRows | None":
    """The rows of a built folder, or of its `side` ("paired" or "text_only") where both were built; None: no such."""
    folder = next((folder for folder in (Path(path), Path(path) / side) if is_built(folder)), None)
    return None if folder is None else BuiltRows(str(folder))


class BuiltExamples(Sequence[Example]):
    """Examples of one split by number, made when they are asked for; may be sent to another process.

    Attributes:
        folder, split: where they are.
        stored: rows of the split.
        length: examples; more or fewer than rows where these are drawn evenly.
        parser: a name in `PARSERS`.
        pictures: of a row, the fewest and the most; so that nobody has to look at all rows to know.
    """

    def __init__(self, folder: Path, about: About, split: str, length: int | None = None):
        self.folder, self.split, self.parser = folder, split, about.parser
        self.stored = about.rows[split]
        self.length = self.stored if length is None else length
        self.pictures = tuple(about.pictures.get(split, (0, 0)))
        self._records: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: SupportsIndex) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        place = operator.index(index)
        place += self.length if place < 0 else 0
        if not 0 <= place < self.length:
            raise IndexError(f"row {index} of {self.length} in {self.folder}, split {self.split!r}")
        # Evenly spread: of a longer set some rows, of a shorter one each as often as any other, give or take one.
        row, where = self.row(place * self.stored // self.length)
        (example,) = PARSERS[self.parser](row, where)
        return example

    def row(self, stored: int) -> tuple[dict[str, Any], Where]:
        """A stored row with its pictures' bytes, and the place that it was built from.

        Raises:
            DataError: the record cannot be read.
        """
        try:
            with self._lock:
                if self._records is None:
                    from lam_jax.corpora.records import read_records  # here: it imports tensorflow-datasets

                    self._records = read_records(self.folder, self.split)
            record = self._records[stored]
            row = json.loads(record["row"])
        except Exception as error:  # tfds and array_record raise many kinds, all of them about the files here
            where = Where(f"{self.folder}, split {self.split!r}", stored)
            raise DataError(where, None, f"{type(error).__name__}: {error}", "a readable record", REBUILD) from error
        file, number = row.pop("place")
        if len(record["images"]):
            row["images"] = [bytes(image) for image in record["images"]]
        return row, Where(file, number)


@dataclasses.dataclass(frozen=True)
class BuiltRows:
    """A folder of built rows as a source; its splits are those that were built.

    Attributes:
        folder: made by `lam-jax data build`.
        limit: most rows of a split, evenly spread; None: all.
    """

    folder: str
    limit: int | None = None

    def __post_init__(self):
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"BuiltRows.limit is {self.limit}, expected at least 1 row of {self.folder}, or None.")

    def prepare(self, folder: Path) -> None:
        """Nothing: the folder is read as it is."""

    def read(self, folder: Path, split: str) -> BuiltExamples:
        """The examples of a split, each made when it is asked for.

        Raises:
            DataError: no such folder or split.
        """
        about = About.of(Path(self.folder))
        if split not in about.rows:
            known = f"one of {sorted(about.rows)}"
            raise DataError(Where(self.folder), None, f"no split {split!r}", known, "Correct the name.")
        stored = about.rows[split]
        length = (about.stands_for or stored) if split == "train" else stored
        return BuiltExamples(Path(self.folder), about, split, min(length, self.limit or length))

    def shrunk(self, rows: int) -> "BuiltRows":
        """At most so many rows a split."""
        return dataclasses.replace(self, limit=min(rows, self.limit or rows))

    def content(self) -> str:
        """A hash of the hashes that the build took of rows and pictures, and of the records' names and sizes."""
        folder = Path(self.folder)
        about = About.of(folder)
        files = sorted((path.name, path.stat().st_size) for path in folder.glob("*.array_record*"))
        known = json.dumps([about.content, about.rows, about.parser, about.stands_for, files], sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()
