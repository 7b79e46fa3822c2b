"""Rows that nobody would write: each gives examples or an error that names file and row, and reads no file elsewhere.

`LAM_JAX_FUZZ=10000 pytest tests/data/test_fuzz_rows.py` tries as many rows; by default it is a few hundred.
"""

import gzip
import io
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lam_jax.data.files import read_rows
from lam_jax.data.layouts import RowParser
from lam_jax.data.readers import Drops, chat_examples, pretraining_examples, released_examples
from lam_jax.data.schemas import DataError, Example, Where, image_bytes
from lam_jax.data.sources import JsonRows
from lam_jax.models.processor import ImageError, ImageSettings, process_image
from lam_jax.tasks.mmrole import mmrole_examples, process_row
from lam_jax.tasks.pcogalign import pcogalign_examples
from tests.data.odd_rows import FILES, MMROLE, PCOG, PROFILE, RAW, SEEDS, SMALL, rows, values

ROWS = int(os.environ.get("LAM_JAX_FUZZ", "600"))
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "print_blob": True}
WHERE = Where("fuzzed.json", 11)
OPENED: list[str] = []
WATCHED = [False]


def watch(event: str, arguments: tuple) -> None:
    if WATCHED[0] and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(watch)


@pytest.fixture(autouse=True)
def watched():
    OPENED.clear()
    WATCHED[0] = True
    yield
    WATCHED[0] = False


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with pictures of every kind, and beside it the canary, which nothing may open."""
    folder = tmp_path_factory.mktemp("fuzz")
    root = folder / "root"
    root.mkdir()
    for name, content in FILES.items():
        (root / name).write_bytes(content)
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("no picture")
    (root / "folder").mkdir()
    (folder / "canary.png").write_bytes(SMALL)
    (root / "link.png").symlink_to(folder / "canary.png")
    (root / "up").symlink_to(folder)
    return root


def require_named(error: Exception, file: str = "fuzzed.json") -> None:
    text = str(error)
    assert text.startswith(file)
    assert len(text) < 3000


def text_of(row) -> str:
    try:
        return repr(row)
    except ValueError:  # an integer of thousands of digits, which no file gives
        return ""


def check_reads(root: Path) -> None:
    outside = [p for p in OPENED if "canary" in p or "passwd" in p or "/up/" in p or p.endswith("link.png")]
    OPENED.clear()
    assert not outside


CHAT_READERS = (
    chat_examples,
    pretraining_examples,
    released_examples,
    RowParser(facts=("topic", "x", "solution")),
)
KNOWN = {"id", "image", "images", "messages", "conversations", "prompt", "problem", "completion", "answer", "solution"}
KNOWN |= {"facts", "instance_type"}


@settings(max_examples=ROWS, **SETTINGS)
@given(row=rows(SEEDS), parse=st.sampled_from(CHAT_READERS))
def test_a_row_of_any_layout_is_an_example_or_an_error(root, row, parse):
    before = text_of(row)
    try:
        found = parse(row, WHERE, root)
    except DataError as error:
        require_named(error)
        check_reads(root)
        return
    finally:
        assert text_of(row) == before
    (example,) = found
    assert isinstance(example, Example)
    given_keys = {key for key, value in row.items() if value is not None}
    assert given_keys <= KNOWN | ({"topic", "x"} if isinstance(parse, RowParser) else set())
    several = row.get("images") or row.get("image")
    kept = len(several) if isinstance(several, list) else several is not None and several != []
    inside = "'type': 'image'" in (text_of(row) or "'type': 'image'")
    assert len(example.images) == len(example.places) >= kept
    assert kept or inside or not example.images
    for index, _ in example.places:
        assert example.messages[index]["role"] == "user"
    for source in example.images:
        decode(source, example)
    check_reads(root)


def decode(source, example) -> None:
    try:
        content = image_bytes(source, example.where)
        patches, (_, height, width) = process_image(content, ImageSettings(size=(28, 28)), str(example.where))
    except (DataError, ImageError) as error:
        require_named(error, "fuzzed.json, row 11")
    else:
        assert len(patches) == height * width == 4


@settings(max_examples=max(50, ROWS // 4), **SETTINGS)
@given(row=rows([MMROLE]).filter(text_of))
def test_a_row_of_mmrole(root, row):
    try:
        assert mmrole_examples(row, WHERE, root)
    except DataError as error:
        require_named(error)
    check_reads(root)


@settings(max_examples=max(50, ROWS // 4), **SETTINGS)
@given(row=rows([RAW]).filter(lambda row: 0 < len(text_of(row)) < 4000))
def test_a_raw_row_of_mmrole_is_made_counted_or_an_error(root, row):
    drops = Drops()
    try:
        made = process_row(row, WHERE, {"Bo": PROFILE}, root, drops)
        assert (made is None) == bool(drops.total)
        if made is not None:
            mmrole_examples(made, WHERE, root)
    except DataError as error:
        require_named(error)
    check_reads(root)


@settings(max_examples=max(50, ROWS // 4), **SETTINGS)
@given(row=rows([PCOG]).filter(text_of))
def test_a_row_of_pcogalign(root, row):
    try:
        assert pcogalign_examples(row, WHERE, root)
    except DataError as error:
        require_named(error)
    check_reads(root)


GOOD = [SEEDS[2] | {"id": f"{i}é"} for i in range(4)]
FORMS = {
    "a.json": json.dumps(GOOD).encode(),
    "b.json": json.dumps(GOOD, indent=1, ensure_ascii=False).encode("utf-16"),
    "a.jsonl": "\n".join(map(json.dumps, GOOD)).encode(),
    "b.jsonl": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in GOOD).encode("utf-8-sig"),
    "a.jsonl.gz": gzip.compress("\n".join(map(json.dumps, GOOD)).encode(), mtime=0),
}


def packed_forms() -> dict[str, bytes]:
    found = dict(FORMS)
    try:
        import zstandard

        found["a.jsonl.zst"] = zstandard.ZstdCompressor(write_checksum=True).compress(FORMS["a.jsonl"])
    except ImportError:
        pass
    try:
        import pyarrow
        from pyarrow import parquet

        out = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(GOOD), out)
        found["a.parquet"] = out.getvalue()
    except ImportError:
        pass
    return found


ALL = packed_forms()


@settings(max_examples=max(50, ROWS // 3), **SETTINGS)
@given(
    name=st.sampled_from(sorted(ALL)),
    at=st.integers(0, 5000),
    change=st.one_of(
        st.binary(max_size=3), st.sampled_from([b'"id": 1,', b"NaN", b"\\ud800", b"\n", b"[" * 3000, b"\xff"])
    ),
    drop=st.integers(0, 40),
)
def test_a_damaged_file_is_its_rows_or_an_error(tmp_path_factory, name, at, change, drop):
    path = tmp_path_factory.getbasetemp() / name
    whole = ALL[name]
    at %= len(whole) + 1
    path.write_bytes(whole[:at] + change + whole[at + drop :])
    try:
        assert isinstance(read_rows(path), list)
        source = JsonRows(str(path), {"all": (0.0, 1.0)}, parse=chat_examples)
        assert all(isinstance(example, Example) for example in source.read(path.parent, "all"))
    except DataError as error:
        require_named(error, str(path))
    path.write_bytes(whole)
    assert read_rows(path) == GOOD


@settings(max_examples=max(50, ROWS // 3), **SETTINGS)
@given(content=st.one_of(values, st.lists(rows(SEEDS), max_size=3)), name=st.sampled_from(["v.json", "v.jsonl"]))
def test_any_json_is_examples_or_an_error(root, content, name):
    try:
        text = json.dumps(content)
    except (TypeError, ValueError):
        return  # bytes, or a number that JSON's writer has no digits for
    path = root / name
    path.write_text(text)
    try:
        found = JsonRows(str(path), {"all": (0.0, 1.0)}, parse=chat_examples).read(root, "all")
        assert len(found) == (len(content) if isinstance(content, list) else 1)
    except DataError as error:
        require_named(error, str(path))
    check_reads(root)
