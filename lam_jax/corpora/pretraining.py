"""Rows in the pre-training format already, of files and built folders, as a paired and a text-only side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.corpora.built import About, BuiltExamples, is_built
from lam_jax.corpora.files import LINES, LISTS, TABLES, find_files, records
from lam_jax.corpora.rows import Odd, Placed, Row, counted, mapping
from lam_jax.data.readers import Drops, resolve_image
from lam_jax.data.schemas import DataError, Where, describe
from lam_jax.tasks.picture_files import OUTSIDE, picture_file


def read_pretraining_rows(
    sources: Sequence[Path],
    images: Path | None,
    drops: Drops,
    paired: bool,
    light: bool = False,
    shared: bool = True,
) -> Iterator[Placed]:
    """The paired, or the text-only rows of files and of built folders; rows of the other side are passed over.

    Faults that belong to neither side, such as a line that is not JSON, are counted with `shared`.
    """
    for source in sources:
        if is_built(source):
            rows = _built_rows(source, light)
        else:
            files = find_files([source], (*LISTS, *LINES, *TABLES), "pre-training files")
            rows = (placed for path in files for placed in _rows(path, images or path.parent, drops, paired, shared))
        yield from ((row, where) for row, where in rows if bool(row.get("images")) == paired)


def _built_rows(folder: Path, light: bool) -> Iterator[Placed]:
    about = About.of(folder)
    for split, count in about.rows.items():
        if count:
            stored = BuiltExamples(folder, about, split)
            for index in range(count):
                row, where = stored.row(index)
                if light and row.get("images"):
                    row["images"] = [b""] * len(row["images"])
                yield row, where


def _rows(path: Path, root: Path, drops: Drops, paired: bool, shared: bool) -> Iterator[Placed]:
    def row(record: Any, where: Where) -> Row:
        if not isinstance(record, dict) and not shared:
            return {}
        found = mapping(record)
        values = _values(found)
        if bool(values) != paired:
            return {}  # of the other side: its faults are counted there
        for key in ("messages", "conversations"):
            if isinstance(found.get(key), list) and found[key]:
                break
        else:
            raise Odd("no messages", f"keys {sorted(map(str, found))}")
        if not isinstance(found.get("id"), str | int):
            raise Odd("no id", describe(found.get("id")))
        kept = {key: value for key, value in found.items() if key not in ("image", "images") and value is not None}
        kept["id"] = str(found["id"])
        return kept | ({"images": [_picture(value, root, where) for value in values]} if values else {})

    yield from (
        (made, where) for made, where in counted(records(path, drops if shared else Drops()), row, drops) if made
    )


def _values(row: dict[str, Any]) -> list[Any]:
    values = row.get("images") if row.get("images") is not None else row.get("image")
    if isinstance(values, list | tuple):
        return list(values)
    return [] if values is None else [values]


def _picture(value: Any, root: Path, where: Where) -> Path | bytes:
    if isinstance(value, dict):  # as `datasets` stores pictures in Parquet
        value = value["bytes"] if isinstance(value.get("bytes"), bytes) else value.get("path")
    if isinstance(value, str) and picture_file(root, value) == OUTSIDE and not value.startswith("/9j/"):
        raise Odd(OUTSIDE, describe(value))
    try:
        return resolve_image(value, root, where, "images")
    except DataError as error:
        raise Odd("missing image", error.found) from error
