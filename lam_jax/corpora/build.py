"""From raw sources to a folder of built rows: count, draw, check pictures, write records; whole or not at all.

The sources are read twice: once to count what can be used, without pictures, and once to write what was drawn. So
memory holds no more than the pieces in hand, and the same arguments give the same rows.
"""

import collections
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from lam_jax.corpora.built import ABOUT, About
from lam_jax.corpora.pictures import PictureError, checked_picture, picture_bytes
from lam_jax.corpora.rows import Placed, Row
from lam_jax.data.readers import Drops, pretraining_examples
from lam_jax.data.schemas import DataError, Where
from lam_jax.data.splits import SEED, hold_out, shuffled
from lam_jax.errors import BadSettingError
from lam_jax.formats.atomic import NAME_MAX, beside
from lam_jax.values import differences

logger = logging.getLogger("lam_jax")
DROPS = "drops.jsonl"
HELD_OUT = 0.01
Item = TypeVar("Item")
Made = TypeVar("Made")
Rows = Callable[[Drops, bool], Iterator[Placed]]  # (drops, light) -> rows, the same ones in the same order each time


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which rows are built, and how.

    Attributes:
        rows: that are drawn, held-out ones with them; None: all that can be used.
        seed: of the draw and of what is held out.
        held_out: share of the drawn rows that the split "test" gets.
        pixels: most of a picture; larger ones are scaled down. None: pictures keep their bytes.
        workers: threads that read and check pictures.
    """

    rows: int | None = None
    seed: int = SEED
    held_out: float = HELD_OUT
    pixels: int | None = None
    workers: int = 8

    def __post_init__(self):
        for name, least in (("rows", 1), ("pixels", 28 * 28), ("workers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadSettingError(f"--{name}: found {value}, expected at least {least}.")
        if not 0.0 <= self.held_out < 1.0:
            raise BadSettingError(f"--held-out: found {self.held_out}, expected a share from 0 up to 1.")


@dataclasses.dataclass
class Built:
    """What a build did: its description, the rows left out with their places, and whether it was there already."""

    about: About
    drops: Drops
    was_there: bool = False


class RecordWriter:
    """Writes one folder of records: takes rows by split, counts, hashes.

    Args:
      folder: to write into; it exists.
      kind, arguments, parser: for its description.
    """

    def __init__(self, folder: Path, kind: str, arguments: Mapping[str, Any], parser: str = "pretraining"):
        self.folder, self.kind, self.arguments, self.parser = folder, kind, arguments, parser
        self.rows: collections.Counter[str] = collections.Counter()
        self._digests: dict[str, Any] = {}
        self._pictures: dict[str, list[int]] = {}

    def write(self, splits: Mapping[str, Callable[[], Iterable[tuple[Row, list[bytes]]]]], drops: Drops) -> None:
        """Writes the records of all splits.

        Raises:
          DataError: a split without rows; `drops` are named as the reason.
          OSError: the folder cannot be written.
        """
        from lam_jax.corpora.records import write_records  # here: it imports tensorflow-datasets

        def counted(split: str) -> Iterator[tuple[Row, list[bytes]]]:
            digest = self._digests.setdefault(split, hashlib.sha256())
            for row, images in splits[split]():
                digest.update(json.dumps(row, sort_keys=True).encode())
                for image in images:
                    digest.update(hashlib.sha256(image).digest())
                self.rows[split] += 1
                fewest, most = self._pictures.get(split, (len(images), len(images)))
                self._pictures[split] = [min(fewest, len(images)), max(most, len(images))]
                yield row, images

        try:
            write_records(self.folder, {split: lambda split=split: counted(split) for split in splits})
        except AssertionError as error:  # tensorflow-datasets writes no empty split
            empty = [split for split in splits if not self.rows[split]]
            if not empty:
                raise
            raise no_rows(self.arguments, f"no row for {empty[0]!r}; {drops}") from error

    def finish(self, drops: Drops, read: int, drawn: int, stands_for: int | None = None) -> About:
        """Writes what was left out, then the folder's description, the last of its files."""
        write_drops(self.folder / DROPS, drops)
        content = {split: digest.hexdigest() for split, digest in self._digests.items()}
        rows = {split: self.rows[split] for split in self._digests}
        counts = dict(sorted(drops.counts.items()))
        pictures = self._pictures
        about = About(self.kind, self.arguments, rows, content, pictures, read, drawn, counts, self.parser, stands_for)
        about.write(self.folder)
        return about


def no_rows(arguments: Mapping[str, Any], found: str) -> DataError:
    """The error for sources that give no rows."""
    return DataError(Where(arguments["sources"][0]["path"]), None, found, "one row or more", "See the reasons.")


def write_drops(path: Path, drops: Drops) -> None:
    """Rows left out, one JSON object a line, with reason, file, row and detail."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for drop in drops.places:
            place = {"reason": drop.reason, "file": drop.where.file, "row": drop.where.row, "detail": drop.detail}
            file.write(json.dumps(place, ensure_ascii=False) + "\n")


def build_rows(folder: Path, kind: str, arguments: Mapping[str, Any], rows: Rows, sampling: Sampling) -> Built:
    """Builds the splits train and test of a corpus into `folder`, which exists and is empty.

    Raises:
      DataError: no row can be used.
      OSError: the folder cannot be written.
    """
    drops = Drops()
    usable = sum(1 for _ in rows(drops, True))
    read = usable + drops.total
    if not usable:
        raise no_rows(arguments, f"no row that can be used; {drops}")
    mixed = shuffled(range(usable), sampling.seed)[: sampling.rows]
    train, test = hold_out(mixed, sampling.held_out, sampling.seed)
    split_of = {**dict.fromkeys(train, "train"), **dict.fromkeys(test, "test")}
    writer = RecordWriter(folder, kind, arguments)
    held: list[tuple[Row, list[bytes]]] = []

    def drawn() -> Iterator[tuple[str, Placed]]:
        left = len(split_of)
        for index, placed in enumerate(rows(Drops(), False)):
            if index in split_of:
                yield split_of[index], placed
                left -= 1
                if not left:
                    return

    def records() -> Iterator[tuple[Row, list[bytes]]]:
        known: set[str] = set()
        waiting: tuple[Row, list[bytes]] | None = None

        def made(item: tuple[str, Placed]) -> tuple[str, Placed, tuple[Row, list[bytes]] | PictureError]:
            split, (row, where) = item
            return split, (row, where), made_record(row, where, sampling.pixels)

        for split, (row, where), record in in_order(made, drawn(), sampling.workers):
            if isinstance(record, PictureError):
                drops.add(record.reason, where, record.detail)
            elif row["id"] in known:
                drops.add("duplicate id", where, repr(row["id"]))
            else:
                known.add(row["id"])
                if split == "test":
                    held.append(record)  # a hundredth of the rows: they wait until the first split is written
                    continue
                if waiting is not None:
                    yield waiting
                waiting = record
        if test and not held and waiting is not None:  # no held-out row could be used: the last one takes the place
            held.append(waiting)
            if writer.rows["train"]:
                return
            logger.warning("%s: one row alone can be used; it is in both splits.", arguments["sources"][0]["path"])
        if waiting is not None:
            yield waiting

    writer.write({"train": records, **({"test": lambda: held} if test else {})}, drops)
    return Built(writer.finish(drops, read, len(split_of)), drops)


def made_record(row: Row, where: Where, pixels: int | None) -> tuple[Row, list[bytes]] | PictureError:
    """The record of a row with its pictures read and checked, or why there is none."""
    try:
        images = [checked_picture(picture_bytes(picture), where, pixels) for picture in row.get("images", ())]
        kept = {key: value for key, value in row.items() if key != "images"}
        try:
            pretraining_examples({**kept, "images": images} if images else kept, where)
            json.dumps(kept, ensure_ascii=False).encode()
        except (DataError, TypeError, ValueError, RecursionError) as error:  # also what is no JSON, or no UTF-8
            raise PictureError("unusable row", str(error)) from error
    except PictureError as error:
        return error
    return kept | {"place": place_of(where)}, images


def place_of(where: Where, building: Path | None = None) -> list[Any]:
    """A place without the folders of this machine: the last two parts of the file's path, and the row.

    Of a file in the folder that is being built it is the name alone: the folder will have another name.
    """
    path = Path(where.file)
    return [path.name if path.parent == building else "/".join(path.parts[-2:]), where.row]


def in_order(function: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Iterator[Made]:
    """`map` by threads, a few items ahead."""
    waiting: collections.deque[Future[Made]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def whole_build(out: Path, arguments: Mapping[str, Any], build: Callable[[Path], Built]) -> Built:
    """`build(folder)` in a folder that becomes `out` at the end, unless `out` is there from the same arguments.

    Raises:
      BadSettingError: `out` holds something else.
      DataError, OSError: what `build` raises; nothing is left then.
    """
    if (out / ABOUT).is_file():
        about = About.of(out)
        if found := differences(json.loads(json.dumps(about.arguments)), json.loads(json.dumps(dict(arguments)))):
            raise BadSettingError(
                f"--out {out}: found a build with other arguments ({'; '.join(found[:3])}), expected the same, or a "
                "new folder. Name another folder, or delete this one."
            )
        return Built(about, Drops(), was_there=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadSettingError(f"--out {out}: found other files there, expected a new or an empty folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    ending = f"building-{socket.gethostname()}-"
    prefix = f".{out.name}.{ending}"
    if len(os.fsencode(prefix)) + _DIGITS > NAME_MAX:
        prefix = beside(out, ending).name
    _remove_abandoned(out.parent, prefix)
    folder = out.parent / f"{prefix}{os.getpid()}"
    folder.mkdir()
    try:
        built = build(folder)
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return built


_DIGITS = 10  # of a process's number


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Deletes the unfinished folders of dead processes of this machine."""
    for path in parent.glob(f"{glob_escape(prefix)}*"):
        try:
            os.kill(int(path.name.removeprefix(prefix)), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def glob_escape(text: str) -> str:
    """A text that stands for itself in a glob."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def sources_as_values(sources: Sequence[Path]) -> list[Any]:
    """Each source by its absolute path, with sizes and times of its files: another file is another build."""
    found = []
    for source in sources:
        files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
        digest = hashlib.sha256()
        for path in files:
            status = path.stat()
            digest.update(
                f"{path.relative_to(source)} {status.st_size} {status.st_mtime_ns}\n".encode(errors="replace")
            )
        found.append({"path": str(source.resolve()), "files": len(files), "state": digest.hexdigest()[:16]})
    return found


def require_outside(out: Path, sources: Sequence[Path]) -> None:
    """Raises BadSettingError if `out` lies in a source, which the build would change under its own hands."""
    for source in sources:
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise BadSettingError(f"--out {out}: found it inside the source {source}, expected a folder elsewhere.")
