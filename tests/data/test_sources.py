"""Splits of a JSON file of one's own."""

import json

import pytest

from lam_jax.data.readers import chat_examples
from lam_jax.data.schemas import DataError
from lam_jax.data.sources import JsonRows
from lam_jax.recipes.own import SPLITS

CHAT = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."}]


def rows(tmp_path, content):
    (tmp_path / "own.json").write_text(json.dumps(content))
    return JsonRows(str(tmp_path / "own.json"), SPLITS, parse=chat_examples)


def test_an_empty_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"own\.json: found an empty list"):
        rows(tmp_path, []).read(tmp_path, "sft")


def test_a_split_that_borrows_a_row_says_so(tmp_path, caplog):
    source = rows(tmp_path, [{"id": i, "messages": CHAT} for i in range(30)])
    with caplog.at_level("WARNING", "lam_jax"):
        found = {name: {e.id for e in source.read(tmp_path, name)} for name in SPLITS}
    assert not caplog.records
    assert [len(found[name]) for name in SPLITS] == [15, 10, 2, 3]
    assert len(set.union(*found.values())) == 30
    one = rows(tmp_path, [{"id": "only", "messages": CHAT}])
    with caplog.at_level("WARNING", "lam_jax"):
        assert [e.id for e in one.read(tmp_path, "sft")] == ["only"]
    assert "the split 'sft', shares 0.0 to 0.5 of 1 rows, holds none" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (3, r"own\.json, row \d: found int 3; expected an object with the key 'id'"),
        ({"messages": CHAT}, r"own\.json, row \d, key 'id': found no such key"),
        (
            {"id": 1, "messages": CHAT, "picture": "a.png"},
            r"own\.json, row \d, key 'picture': found a key that is not read",
        ),
        ({"id": 1, "messages": CHAT, "image": 3}, r"own\.json, row \d, key 'image': found int 3"),
        (
            {"id": 1, "messages": CHAT, "image": "a.png"},
            r"own\.json, row \d, key 'image': found no file .*a\.png",
        ),
        ({"id": 1, "messages": CHAT, "images": "a.png"}, r"own\.json, row \d, key 'images': found str 'a.png'"),
        ({"id": 1, "messages": "hello"}, r"own\.json, row \d, key 'messages': found str 'hello'"),
        ({"id": 1, "messages": [*CHAT, "x"]}, r"own\.json, row \d, messages\[2\]: found str 'x'"),
        (
            {"id": 1, "messages": [CHAT[0], {"role": "assistant", "content": " "}]},
            r"own\.json, row \d, key 'messages': found .*non-empty assistant message last",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        rows(tmp_path, [row] * 2).read(tmp_path, "sft")


def test_two_rows_with_one_id_are_named(tmp_path):
    with pytest.raises(DataError, match=r"own\.json, row \d, key 'id': found 'a', which .*own\.json, row \d has too"):
        rows(tmp_path, [{"id": "a", "messages": CHAT}] * 8).read(tmp_path, "sft")
