import json

import pytest

from lam_jax.data.readers import (
    chat_examples,
    pretraining_examples,
    read_json,
    read_pretraining,
    read_rows,
    strip_image_tag,
)
from lam_jax.data.schemas import DataError, Example, Where

CHAT = [{"role": "user", "content": "<image>\nWhat is it?"}, {"role": "assistant", "content": "A cat."}]
WHERE = Where("rows.json", 3)


def row(**changes):
    values = {"id": "r0", "images": ["a.png"], "messages": CHAT, "instance_type": "caption", **changes}
    return {key: value for key, value in values.items() if value is not None}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_paired_and_text_only_files(tmp_path, make_png):
    (tmp_path / "a.png").write_bytes(make_png())
    path = write(
        tmp_path / "paired.json",
        [row(), row(id=7, images=["a.png", "a.png"], messages=[CHAT[0] | {"content": "Compare."}, CHAT[1]])],
    )
    first, second = read_pretraining(path, tmp_path)
    assert first.id == "r0"
    assert second.id == "7"
    assert first.messages[0]["content"] == "What is it?"
    assert first.reference == "A cat."
    assert first.prompt == first.messages[:-1]
    assert first.images == (tmp_path / "a.png",)
    assert len(second.images) == 2
    (text,) = read_pretraining(write(tmp_path / "text.json", [row(images=None)]))
    assert text.images == ()
    assert text.facts is None
    (kept,) = read_pretraining(tmp_path / "text.json", keep_image_tag=True)
    assert kept.messages[0]["content"] == "<image>\nWhat is it?"


def test_json_lines_are_rows_too(tmp_path):
    text = f"{json.dumps(row(id='a'))}\n\n{json.dumps({'id': 'b', 'text': 'x y'}, ensure_ascii=False)}\n"
    assert [r["id"] for r in read_rows(write(tmp_path / "rows.jsonl", text))] == ["a", "b"]
    with pytest.raises(DataError, match=r"broken.jsonl, line 2: found Expecting .* at column 7"):
        read_rows(write(tmp_path / "broken.jsonl", '{"id": "a"}\n{"id":\n'))
    assert [r["id"] for r in read_rows(write(tmp_path / "lines.json", text))] == ["a", "b"]


def test_a_task_row_may_have_no_reference_answer():
    asked = row(images=None, messages=[{"role": "user", "content": "What is it?"}])
    (example,) = chat_examples(asked, WHERE)
    assert not example.has_reference
    assert example.prompt == example.messages
    with pytest.raises(DataError, match=r"rows.json, row 3.*no reference answer: the last message is the user's"):
        _ = example.reference
    with pytest.raises(DataError, match="no reference answer"):
        pretraining_examples(asked, WHERE)


def test_rows_with_bytes_and_facts_take_the_same_path(make_png):
    (example,) = pretraining_examples(row(images=[make_png()], facts={"task": "caption"}), WHERE)
    assert example.images == (make_png(),)
    assert example.facts == {"task": "caption"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("<image>\nA", "A"), ("A<image>", "A"), ("A <image> b", "A  b"), (" plain ", " plain "), ("<image>", "")],
)
def test_image_tag_is_stripped(text, expected):
    assert strip_image_tag(text) == expected


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"messages": None}, "messages", "no such key (keys: id, images, instance_type); expected list"),
        ({"id": None}, "id", "no such key"),
        ({"messages": "text"}, "messages", "found str 'text'; expected list"),
        ({"messages": [{"role": "user"}]}, "content", "messages[0], key 'content': found no such key (keys: role)"),
        (
            {"messages": [*CHAT[:1], {"role": "assistant", "content": 5}]},
            "content",
            "messages[1], key 'content': found int 5",
        ),
        ({"messages": ["text"]}, None, "messages[0]: found str 'text'; expected an object"),
        ({"messages": [{"role": "bot", "content": "x"}], "images": []}, "messages[0].role", "'bot'"),
        ({"messages": CHAT[:1], "images": []}, "messages", "expected an assistant message last"),
        ({"messages": [], "images": []}, "messages", "found no messages"),
        (
            {"messages": [CHAT[0], {"role": "system", "content": "s"}, CHAT[1]], "images": []},
            "messages[1]",
            "as first message only",
        ),
        ({"messages": CHAT[1:], "images": [b"png"]}, "images", "images but no user turn"),
        ({"images": "a.png"}, "images", "found str 'a.png'; expected list"),
        ({"images": ["gone.png"]}, "images[0]", "found no file gone.png; expected an image file"),
        ({"images": [3]}, "images[0]", "found int 3; expected an image path"),
        ({"facts": "x", "images": []}, "facts", "expected dict"),
    ],
)
def test_bad_rows_name_file_row_and_key(changes, key, message):
    with pytest.raises(DataError) as error:
        pretraining_examples(row(**changes), WHERE)
    assert error.value.key == key
    assert str(error.value).startswith("rows.json, row 3")
    assert message in str(error.value)


@pytest.mark.parametrize("value", [3, None, "row", [1]])
def test_a_row_that_is_no_object_is_named(value):
    with pytest.raises(DataError, match=r"rows\.json, row 3.*expected an object"):
        pretraining_examples(value, WHERE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": 1,', "line 1, column 11"),
        ("", "line 1, column 1"),
        ('{"id": 1}', "top-level dict; expected a list"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(DataError, match=r"bad\.json") as error:
        read_rows(path)
    assert message in str(error.value)


def test_missing_and_undecodable_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: found No such file"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "latin.json").write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 at offset 2"):
        read_json(tmp_path / "latin.json")


def test_the_row_of_a_file_is_counted(tmp_path):
    path = write(tmp_path / "text.json", [row(images=None), row(images=None, id=None)])
    with pytest.raises(DataError, match=r"text\.json, row 1, key 'id'"):
        read_pretraining(path)


def test_examples_compare_by_content():
    messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    assert Example("x", messages, where=Where("one")) == Example("x", messages, where=Where("two"))
