"""Rows in the pre-training format already, of files and built folders, as a paired and a text-only side."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.corpora.built import About, BuiltExamples, is_built
from lam_jax.corpora.files import LINES, LISTS, TABLES, Record, find_files, records
from lam_jax.corpora.rows import Odd, Placed, Row, counted, mapping, stored_messages
from lam_jax.data.readers import Drops, RowParser, resolve_image
from lam_jax.data.schemas import DataError, Where, describe
from lam_jax.data.tables import rows_of_folder
from lam_jax.tasks.picture_files import OUTSIDE, picture_file

PAIRED, TEXT_ONLY = "paired", "text_only"  # folders of the sides
SAVED = ("state.json", "dataset_dict.json")  # of a folder that `datasets` saved
_PARSER = RowParser(reference=True, tags="text alone")


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
            rows = counted(_built_rows(source, light), _one_picture, drops if paired else Drops())
        elif any(is_built(source / side) for side in (PAIRED, TEXT_ONLY)):
            side = source / (PAIRED if paired else TEXT_ONLY)
            rows = counted(_built_rows(side, light), _one_picture, drops) if is_built(side) else iter(())
        elif any((source / name).is_file() for name in SAVED):
            stored = ((Where(str(source), i), row) for i, row in enumerate(rows_of_folder(source, "one data set")))
            rows = _rows(stored, images or source, drops, paired, shared)
        else:
            files = find_files([source], (*LISTS, *LINES, *TABLES), "pre-training files")
            rows = (
                placed
                for path in files
                for placed in _rows(
                    records(path, drops if shared else Drops()), images or path.parent, drops, paired, shared
                )
            )
        yield from ((row, where) for row, where in rows if bool(row.get("images")) == paired)


def _built_rows(folder: Path, light: bool) -> Iterator[tuple[Where, Row]]:
    about = About.of(folder)
    for split, count in about.rows.items():
        if count:
            stored = BuiltExamples(folder, about, split)
            for index in range(count):
                row, where = stored.row(index)
                if light and row.get("images"):
                    row["images"] = [b""] * len(row["images"])
                yield where, row


def _one_picture(row: Row, where: Where) -> Row:
    """The row, if it has one picture or none: stages 1 to 4 take no row of several."""
    if len(row.get("images") or ()) > 1:
        raise Odd("several pictures", f"{len(row['images'])}, row {where.row}")
    return row


def _rows(found: Iterable[Record], root: Path, drops: Drops, paired: bool, shared: bool) -> Iterator[Placed]:
    def row(record: Any, where: Where) -> Row:
        if not isinstance(record, dict) and not shared:
            return {}
        try:
            found = _plain(mapping(record), root, where)
        except Odd:
            if shared:
                raise
            return {}
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
        if not values:
            return kept
        _one_picture({"images": values}, where)
        return kept | {"images": [_picture(value, root, where) for value in values]}

    yield from ((made, where) for made, where in counted(found, row, drops) if made)


def _plain(row: Row, root: Path, where: Where) -> Row:
    """The row as messages or conversations whose pictures stand beside them, and with an id.

    Rows of other layouts, and pictures inside of parts, are read as `train own` reads them; where each picture stands
    is kept, as a part of the content.
    """
    row = {key: value for key, value in row.items() if value is not None}
    if row.get("id") is None and "messages" not in row:
        path = Path(where.file)
        row = {**row, "id": f"{path.parent.name}/{path.name.partition('.')[0]}/{where.row}"}
    if not {"prompt", "problem"} & set(row) and not _has_parts(row):
        return row
    try:
        (example,) = _PARSER(row, where, root)
    except DataError as error:
        raise Odd("unusable row", str(error)) from error
    facts = {} if example.facts is None else {"facts": example.facts}
    return {"id": example.id, "messages": stored_messages(example), **facts} | (
        {"images": [*example.images]} if example.images else {}
    )


def _has_parts(row: Row) -> bool:
    turns = [turn for key in ("messages", "conversations") for turn in row.get(key, ()) if isinstance(turn, dict)]
    return any(isinstance(turn.get(name), list | tuple) for turn in turns for name in ("content", "value"))


def _values(row: dict[str, Any]) -> list[Any]:
    values = row.get("images") if row.get("images") is not None else row.get("image")
    if isinstance(values, list | tuple):
        return list(values)
    return [] if values is None else [values]


def _picture(value: Any, root: Path, where: Where) -> Path | bytes:
    if isinstance(value, Path):  # which `_plain` found
        return value
    if isinstance(value, dict):  # as `datasets` stores pictures in Parquet
        value = value["bytes"] if isinstance(value.get("bytes"), bytes) else value.get("path")
    if isinstance(value, str) and picture_file(root, value) == OUTSIDE and not value.startswith("/9j/"):
        raise Odd(OUTSIDE, describe(value))
    try:
        return resolve_image(value, root, where, "images")
    except DataError as error:
        raise Odd("missing image", error.found) from error
