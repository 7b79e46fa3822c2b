"""Records of packed, damaged and odd files."""

import gzip
import json
import random

import pytest

from lam_jax.corpora import files
from lam_jax.corpora.files import find_files, records, suffix
from lam_jax.corpora.tfrecord import masked_crc32c, sequence_examples
from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError
from tests.corpora.made import crc, lines, sequence_example, tfrecord

ROWS = [{"text": f"row {index} ü \u2028"} for index in range(5)]


def read(path):
    drops = Drops()
    return [(where.row, row) for where, row in records(path, drops)], drops


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "A.JSONL"])
def test_lines_plain_and_packed(tmp_path, name):
    found, drops = read(lines(tmp_path / name, ROWS))
    assert found == list(enumerate(ROWS))
    assert drops.total == 0


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress])
def test_a_list_is_read_in_blocks(tmp_path, monkeypatch, block, pack):
    monkeypatch.setattr(files, "BLOCK", block)
    rows = [*ROWS, 12345, "a ] string", [], None]
    text = "\ufeff " + json.dumps(rows, indent=1, ensure_ascii=False)
    (tmp_path / "a.json").write_bytes(pack(text.encode()))
    found, drops = read(tmp_path / "a.json")
    assert found == list(enumerate(rows))
    assert drops.total == 0


def test_damage_is_counted_and_what_stands_before_it_is_read(tmp_path):
    whole = json.dumps(ROWS)
    (tmp_path / "cut.json").write_text(whole[: whole.index("row 3")])
    found, drops = read(tmp_path / "cut.json")
    assert [row for _, row in found] == ROWS[:3]
    assert drops.counts == {"rest of a damaged file": 1}
    assert drops.places[0].where.row == 3
    path = lines(tmp_path / "a.jsonl", ROWS)
    path.write_bytes(path.read_bytes().replace(b'{"text": "row 1', b'{"text": row 1') + b"\xff\xfe\n")
    found, drops = read(path)
    assert [number for number, _ in found] == [0, 2, 3, 4]
    assert drops.counts == {"line that is not JSON": 2}
    noise = random.Random(0)
    packed = gzip.compress(b"".join(b'{"text": "%x"}\n' % noise.getrandbits(800) for _ in range(10_000)))
    (tmp_path / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor().compress(gzip.decompress(packed))
    (tmp_path / "b.jsonl.zst").write_bytes(packed[: len(packed) // 2])
    for name in ("b.jsonl.gz", "b.jsonl.zst"):
        found, drops = read(tmp_path / name)
        assert 0 < len(found) < 10_000
        assert drops.counts == {"rest of a damaged file": 1}
    (tmp_path / "two.jsonl.zst").write_bytes(packed * 2)
    assert len(read(tmp_path / "two.jsonl.zst")[0]) == 20_000


def test_parquet_rows(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"a": 1, "b": b"x"}, {"a": 2, "b": None}]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0] == [(0, {"a": 1, "b": b"x"}), (1, {"a": 2, "b": None})]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    found, drops = read(tmp_path / "b.parquet")
    assert (found, drops.counts) == ([], {"rest of a damaged file": 1})


def test_other_files_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match=r"a\.csv: found a file that ends in '\.csv'; expected one of"):
        read(tmp_path / "a.csv")
    with pytest.raises(DataError, match="no such file or folder"):
        find_files([tmp_path / "gone"], (".json",), "rows")
    with pytest.raises(DataError, match="a folder without such files"):
        find_files([tmp_path], (".json",), "rows")
    (tmp_path / "b.json").write_text('"text"')
    with pytest.raises(DataError, match="expected a JSON list or JSON Lines"):
        read(tmp_path / "b.json")
    assert suffix(tmp_path / "a.b.JSONL.zst") == ".jsonl"


def test_tfrecords_as_their_wire_format_says(tmp_path):
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    messages = [sequence_example({"title": ["Katze ü"], "n": [300]}, {"s": [["a", "b"], [], ["c"]]})] * 2
    path = tmp_path / "x.tfrecord.gz-00000-of-00001"
    path.write_bytes(gzip.compress(tfrecord(messages)))
    found = list(sequence_examples(path, Drops()))
    assert [where.row for where, *_ in found] == [0, 1]
    assert found[0][1:] == ({"title": ["Katze ü"], "n": [300]}, {"s": [["a", "b"], [], ["c"]]})


def test_damaged_tfrecords_are_counted(tmp_path):
    message = sequence_example({"a": ["b"]}, {})
    path = tmp_path / "x.tfrecord"
    path.write_bytes(tfrecord([message, message])[:-3])
    drops = Drops()
    assert len(list(sequence_examples(path, drops))) == 1
    assert drops.counts == {"rest of a damaged file": 1}
    path.write_bytes(tfrecord([b"\xff\xff\xff", message]))
    drops = Drops()
    assert len(list(sequence_examples(path, drops))) == 1
    assert drops.counts == {"record that is no SequenceExample": 1}
    path.write_bytes(b"this is some other kind of file")
    with pytest.raises(DataError, match="expected a TFRecord file"):
        list(sequence_examples(path, Drops()))
    assert crc(b"123456789") == masked_crc32c(b"123456789")
