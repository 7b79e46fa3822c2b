"""Files of rows: every kind gives the same rows, and a damaged one never gives fewer."""

import gzip
import io
import json
import sys

import pytest
from PIL import Image

from lam_jax.data.files import hash_rows, iterate_rows, read_json, read_rows
from lam_jax.data.schemas import DataError

ROWS = [
    {"id": "a", "n": 1, "text": "ü\u2028 x"},
    {"id": "b", "n": None, "text": 'y\\"}{'},
    {"id": "c", "n": [1.5], "text": ""},
]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"
LIST = json.dumps(ROWS, ensure_ascii=False, indent=1)


def zstd(raw: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(raw)


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("text", [LINES, LIST, LINES.replace("\n", "\r\n"), LINES.strip(), f"\n \n{LINES}\n\n"])
@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a.ndjson", "a.jsonl.gz", "a.json.gz", "a.jsonl.zst", "a.json.zst"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_in_every_form_gives_the_same_rows(tmp_path, text, name, encoding):
    raw = (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding)
    raw = gzip.compress(raw) if name.endswith("gz") else zstd(raw) if name.endswith("zst") else raw
    path = write(tmp_path / name, raw)
    assert read_rows(path) == ROWS
    if text == LIST:
        assert read_json(path) == ROWS


def test_long_lines_and_several_frames(tmp_path):
    rows = [{"id": i, "text": "x" * (700_000 + i)} for i in range(5)]
    raw = "\n".join(map(json.dumps, rows)).encode()
    assert read_rows(write(tmp_path / "a.jsonl", raw)) == rows
    half = len(raw) // 2
    assert read_rows(write(tmp_path / "a.jsonl.zst", zstd(raw[:half]) + zstd(raw[half:]))) == rows
    assert read_rows(write(tmp_path / "a.jsonl.gz", gzip.compress(raw[:half]) + gzip.compress(raw[half:]))) == rows
    assert next(iterate_rows(tmp_path / "a.jsonl.zst"))["id"] == 0


@pytest.mark.parametrize("pack", [zstd, gzip.compress])
@pytest.mark.parametrize("cut", [1, 4, 40, 200])
def test_a_packed_file_that_is_cut_is_no_shorter_one(tmp_path, pack, cut):
    import random

    noise = random.Random(0)
    rows = [{"id": i, "text": "".join(noise.choices("abcdefghij", k=50))} for i in range(500)]
    raw = pack("\n".join(map(json.dumps, rows)).encode())
    path = write(tmp_path / ("a.jsonl.zst" if pack is zstd else "a.jsonl.gz"), raw[:-cut])
    with pytest.raises(DataError, match=r"a\.jsonl\.(zst|gz)"):
        read_rows(path)
    path.write_bytes(b"no frame at all")
    with pytest.raises(DataError, match=r"a file that cannot be read"):
        read_rows(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", r"a\.json: found Expecting value at line 1, column 1"),
        ("a.jsonl", '{"id": 1}\n{"id":', r"a\.jsonl, line 2: found Expecting value at column 7; .*drop the line"),
        ("a.jsonl", '{"id": 1} {"id": 2}', r"line 1: found Extra data at column 11; .* a line of its own"),
        ("a.json", '[{"id": 1}, {"id": ', r"a\.json: found Expecting value at line 1, column 20"),
        ("a.json", '[{"id": 1} {"id": 2}]', r"Expecting ',' delimiter at line 1, column 12"),
        ("a.json", '[{"id": 1}] x', r"Extra data at line 1, column 13"),
        ("a.json", '[{"id": 1},]', r"Expecting value at line 1, column 12"),
        ("a.json", "[", r"Expecting value at line 1, column 2"),
        ("a.json", '{"id": 1}', r"a top-level dict; expected a list of rows. Put the rows into one list"),
        ("a.json", '{"data": [\n{"id": 1}]}', r"a top-level dict"),
        ("a.json", "3", r"a top-level int"),
        ("a.json", '[{"id": 1}, {"id": 1, "x": 2, "id": 3}]', r"a\.json, row 1, key 'id': found the key twice"),
        ("a.jsonl", '{"id": 1}\n{"m": {"a": 1, "a": 1}}', r"a\.jsonl, line 2, key 'a': found the key twice"),
        ("a.json", '[{"id": NaN}]', r"row 0: found NaN; expected a number that JSON has"),
        ("a.json", '[{"id": -Infinity}]', r"row 0: found -Infinity"),
        ("a.jsonl", '{"id": 1e999}', r"line 1: found the number 1e999; expected one that a float holds"),
        ("a.json", f'[1, {{"id": {"9" * 5000}}}]', r"row 1: found a number of too many digits"),
        ("a.json", "[" * 100_000, r"row 0: found values nested too deeply"),
        ("a.jsonl", '{"a":' * 100_000, r"line 1: found values nested too deeply"),
        ("a.json", b'["\xe9"]', r"a byte that is not UTF-8 at offset 2"),
        ("a.jsonl", b'{"id": 1}\n{"id": "\xe9"}', r"line 2: found a byte that is not UTF-8 at offset 8"),
        ("a.json", b'\xff\xfe["\x00', r"a byte that is not UTF-16"),
        ("a.json", '[{"id": 1}]'.encode("utf-16-le"), r"text with zero bytes, as UTF-16 without a mark"),
        ("a.jsonl", '{"id": 1}'.encode("utf-16-le"), r"text with zero bytes"),
        ("a.csv", "id\n1", r"a file ending in '\.csv'; expected \.json"),
        ("a.gz", "id\n1", r"a file ending in '\.gz'"),
        ("a.parquet", "PAR1", r"a\.parquet: found a file that cannot be read"),
        ("a.parquet.gz", "PAR1", r"a file ending in '\.gz'"),
    ],
)
def test_what_cannot_be_kept_as_it_is_is_named(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as error:
        read_rows(write(tmp_path / name, content))
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["gone.json", "gone.jsonl", "gone.jsonl.zst", "gone.parquet", "gone", "x\0.json"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match=r"found (No such file|.*null byte)"):
        read_rows(tmp_path / name)


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"problem": "a", "images": [{"bytes": picture(), "path": None}], "answer": "1"},
        {"problem": "b", "images": [], "answer": None},
        {"problem": "c", "images": None, "answer": "é"},
    ] * 700
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=999)
    assert read_rows(path) == rows
    raw = path.read_bytes()
    for damaged in (raw[:-5], raw[: len(raw) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.parquet"):
            read_rows(path)
    twice = arrow.table([arrow.array([1]), arrow.array([2])], names=["id", "id"])
    parquet.write_table(twice, path)
    with pytest.raises(DataError, match=r"key 'id': found two columns of one name"):
        read_rows(path)
    broken = arrow.array([b"ok", b"\xff\xfe"]).cast(arrow.binary()).view(arrow.string())
    parquet.write_table(arrow.table({"id": broken}), path)
    with pytest.raises(DataError, match=r"a\.parquet: found a file that cannot be read"):
        read_rows(path)


def test_a_folder_that_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"problem": datasets.Value("string"), "image": datasets.Image()})
    made = datasets.Dataset.from_dict(
        {"problem": ["a", "b", "c"], "image": [{"bytes": picture(), "path": None}, None, None]}, features
    )
    made.save_to_disk(tmp_path / "one")
    found = read_rows(tmp_path / "one")
    assert [row["problem"] for row in found] == ["a", "b", "c"]
    assert (found[0]["image"]["bytes"], found[1]["image"]) == (picture(), None)
    made.select([2, 1]).save_to_disk(tmp_path / "some")
    assert [row["problem"] for row in read_rows(tmp_path / "some")] == ["c", "b"]
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"several data sets, \['test', 'train'\]; .* Name one: .*both/test"):
        read_rows(tmp_path / "both")
    assert len(read_rows(tmp_path / "both" / "train")) == 3
    with pytest.raises(DataError, match="a folder that datasets did not save"):
        read_rows(tmp_path)
    for file in (tmp_path / "one").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match="one: found"):
        read_rows(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("a.parquet", "pyarrow.parquet", "parquet"),
        ("a.jsonl.zst", "zstandard", "zstd"),
        ("saved", "datasets", "datasets"),
    ],
)
def test_a_missing_extra_says_how_to_install_it(tmp_path, monkeypatch, name, module, extra):
    if extra == "zstd" and sys.version_info >= (3, 14):
        pytest.skip("the standard library reads it")
    if name == "saved":
        (tmp_path / name).mkdir()
        write(tmp_path / name / "state.json", "{}")
    else:
        write(tmp_path / name, "x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"pip install 'lam_jax\[{extra}\]'"):
        read_rows(tmp_path / name)


def test_the_hash_of_rows_is_that_of_what_is_read(tmp_path):
    import hashlib

    path = write(tmp_path / "a.json", "[]")
    assert hash_rows(path) == hashlib.sha256(b"[]").hexdigest()
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "state.json", "{}")
    before = hash_rows(folder)
    write(folder / "cache-1.arrow", "x")
    assert hash_rows(folder) == before
    write(folder / "data.arrow", "x")
    changed = hash_rows(folder)
    (folder / "data.arrow").rename(folder / "other.arrow")
    assert len({before, changed, hash_rows(folder)}) == 3
