"""JSON lines: whole after a kill, cut as a whole, safe on a full disk."""

import json
import os

import pytest

from lam_jax.errors import NoSpaceError
from lam_jax.runs.jsonl import BLOCK, JsonLines, read_lines


def numbers(path):
    return [record["n"] for record in read_lines(path)]


@pytest.fixture
def lines(tmp_path):
    made = JsonLines(tmp_path / "folder" / "lines.jsonl", "numbers")
    yield made
    made.close()


def test_the_file_comes_with_the_first_record(lines):
    assert list(read_lines(lines.path)) == []
    lines.append([])
    assert not lines.path.exists()
    lines.append([{"n": 1}, {"n": 2}])
    assert numbers(lines.path) == [1, 2], "readable while it is open"


@pytest.mark.parametrize("rest", [b'{"n": 3, "te', b'{"n": 3, "text": "' + b"x" * (2 * BLOCK), b"\xff\xfe"])
def test_an_unfinished_last_line_goes_and_the_next_is_whole(lines, rest):
    lines.append([{"n": 1}, {"n": 2}])
    lines.close()
    with lines.path.open("ab") as file:
        file.write(rest)
    again = JsonLines(lines.path)
    again.append([{"n": 4}])
    again.close()
    assert numbers(lines.path) == [1, 2, 4]
    assert lines.path.read_bytes().endswith(b"\n")


def test_a_file_that_is_one_unfinished_line_ends_empty(tmp_path):
    (tmp_path / "a").write_bytes(b'{"n": 1')
    JsonLines(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b""


def test_a_last_line_that_only_lacks_its_end_stays(tmp_path):
    (tmp_path / "a").write_bytes(b'{"n": 1}\n{"n": 2}')
    lines = JsonLines(tmp_path / "a")
    lines.append([{"n": 3}])
    lines.close()
    assert numbers(tmp_path / "a") == [1, 2, 3]


def test_keep_drops_the_others_and_appending_goes_on(lines):
    lines.append([{"n": n} for n in range(6)])
    before = lines.path.stat().st_ino
    assert not lines.keep(lambda record: True)
    assert lines.path.stat().st_ino == before, "nothing to drop: the file is left alone"
    assert lines.keep(lambda record: record["n"] % 2 == 0)
    lines.append([{"n": 7}])
    assert numbers(lines.path) == [0, 2, 4, 7]
    assert [path.name for path in lines.path.parent.iterdir()] == ["lines.jsonl"]


def test_a_broken_line_is_named_by_number(tmp_path):
    (tmp_path / "a").write_text('{"n": 1}\n\n{"n\n{"n": 4}\n')
    with pytest.raises(ValueError, match=r"a: line 3: found '\{\"n', expected JSON\. Delete that line"):
        list(read_lines(tmp_path / "a"))


def test_a_full_disk_leaves_whole_lines_and_says_what_did_not_fit(lines, monkeypatch):
    lines.append([{"n": 1}])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpaceError, match="no space to log numbers"):
        lines.append([{"n": 2}, {"n": 3}])
    with pytest.raises(NoSpaceError):
        lines.keep(lambda record: False)
    assert [path.name for path in lines.path.parent.iterdir()] == ["lines.jsonl"]
    monkeypatch.undo()
    assert numbers(lines.path) == [1]
    lines.append([{"n": 4}])
    assert numbers(lines.path) == [1, 4]


def test_a_record_that_the_disk_takes_in_pieces_is_whole(lines, monkeypatch):
    """A write may take less than it is given."""
    lines.append([{"n": 1}])
    real = lines._file

    class InPieces:
        def write(self, data):
            return real.write(data[:7])

        def __getattr__(self, name):
            return getattr(real, name)

    monkeypatch.setattr(lines, "_file", InPieces())
    lines.append([{"n": 2, "text": "x" * 50}])
    assert [json.loads(line) for line in lines.path.read_text().splitlines()] == [
        {"n": 1},
        {"n": 2, "text": "x" * 50},
    ]
