"""Rows as other projects write them: which key means what, and what is not read is named."""

import io
import json

import pytest
from PIL import Image

from lam_jax.data.layouts import RowParser
from lam_jax.data.readers import chat_examples, pretraining_examples
from lam_jax.data.schemas import DataError, Where

WHERE = Where("folder/rows.part.jsonl", 7)
CHAT = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]


@pytest.fixture(scope="module")
def picture():
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


def read(row, parse=chat_examples, where=WHERE, root=None):
    (example,) = parse(row, where, root)
    return example


def turns(example):
    return [(message["role"], message["content"]) for message in example.messages]


def test_llava_and_sharegpt(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture)
    row = {
        "id": "000000033471",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat are the colours?"},
            {"from": "gpt", "value": "White and red."},
            {"from": "human", "value": "Why?"},
            {"from": "gpt", "value": "No idea."},
        ],
    }
    example = read(row, root=tmp_path)
    assert turns(example) == [
        ("user", "What are the colours?"),
        ("assistant", "White and red."),
        ("user", "Why?"),
        ("assistant", "No idea."),
    ]
    assert (example.id, example.places, example.images) == ("000000033471", ((0, 0),), (tmp_path / "a.png",))
    plain = {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "user", "value": "u"},
            {"from": "assistant", "value": "a"},
        ]
    }
    assert turns(read(plain)) == [("system", "s"), ("user", "u"), ("assistant", "a")]
    assert read(plain).id == "rows_7"
    assert turns(read({"conversations": CHAT})) == turns(read({"id": 1, "messages": CHAT}))


def test_llava_pictures_in_a_list_and_beside_messages(picture):
    row = {"id": 1, "image": [picture, b"other"], "conversations": [{"from": "human", "value": "<image>, <image>?"}]}
    assert read(row).places == ((0, 0), (0, 2))
    for parse in (chat_examples, pretraining_examples):
        assert read({"id": 1, "image": picture, "messages": CHAT}, parse).images == (picture,)


def test_vlm_r1(picture):
    row = {
        "id": 3,
        "image": picture,
        "conversations": [
            {"from": "human", "value": "How many? <image> Think first."},
            {"from": "gpt", "value": "<answer> 3 </answer>"},
        ],
    }
    example = read(row)
    assert turns(example)[0] == ("user", "How many?  Think first.")
    assert example.places == ((0, 10),)


def test_trl(picture):
    asked = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}]
    for row in (
        {"prompt": "What?", "completion": "A cat.", "images": [picture]},
        {"prompt": "<image>What?", "completion": [CHAT[1]], "image": {"bytes": picture, "path": "a.png"}},
        {"prompt": asked, "answer": "A cat.", "images": [{"bytes": picture, "path": None}], "completion": None},
        {"prompt": CHAT[:1], "solution": "A cat.", "image": picture},
    ):
        example = read(row)
        assert turns(example) == [("user", "What?"), ("assistant", "A cat.")]
        assert (example.images, example.places, example.id) == ((picture,), ((0, 0),), "rows_7")
    assert not read({"prompt": "What?"}).has_reference
    assert read({"prompt": "What?", "id": 5}).id == "5"


def test_easyr1(picture):
    example = read({"images": [{"bytes": picture, "path": None}], "problem": "<image>Find x.", "answer": 3})
    assert turns(example) == [("user", "Find x."), ("assistant", "3")]
    assert read({"problem": "Find x.", "solution": "3", "images": []}).images == ()


def test_other_columns_go_into_the_facts_where_that_is_asked_for():
    row = {"problem": "Find x.", "answer": "3", "solution": "x = 3", "topic": {"name": "algebra", "level": [1, 2.5]}}
    example = read(row, RowParser(facts=("topic", "solution", "absent")))
    assert example.facts == {"topic": {"name": "algebra", "level": [1, 2.5]}, "solution": "x = 3"}
    assert example.reference == "3"
    both = RowParser(facts=("topic",))
    assert read({"id": 1, "messages": CHAT, "facts": {"a": 1}, "topic": "t"}, both).facts == {"a": 1, "topic": "t"}
    with pytest.raises(DataError, match="the name in 'facts' too"):
        read({"id": 1, "messages": CHAT, "facts": {"topic": 1}, "topic": "t"}, both)
    with pytest.raises(DataError, match=r"key 'topic.x\[0\]': found bytes b'1'"):
        read({"id": 1, "messages": CHAT, "topic": {"x": [b"1"]}}, both)
    for name in ("image", "messages", "id", "facts", "prompt"):
        with pytest.raises(ValueError, match="RowParser"):
            RowParser(facts=(name,))


@pytest.mark.parametrize(
    "name", ["img", "imgs", "Image", "IMAGES", "picture", "Pictures", "image_path", "imags", "image "]
)
def test_a_misspelt_picture_key_is_never_a_row_without(name):
    for parse in (chat_examples, pretraining_examples):
        with pytest.raises(
            DataError, match=rf"key '{name}': found a key that is not read.*Rename it to 'images?'"
        ) as e:
            read({"id": 1, "messages": CHAT, name: "a.png"}, parse)
        assert str(e.value).startswith("folder/rows.part.jsonl, row 7, key")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": 1},
            r"key 'messages': found no such key .*A row has one of \('messages', 'conversations', 'prompt', 'prob",
        ),
        ({"id": 1, "messages": CHAT, "conversations": []}, "found both 'messages' and 'conversations'"),
        ({"prompt": "a", "problem": "a"}, "found both 'prompt' and 'problem'"),
        ({"problem": "a", "answer": "1", "solution": "2"}, r"both 'answer' and 'solution'.*--facts solution"),
        ({"problem": "a", "anwser": "1"}, r"key 'anwser': .*Rename it to 'answer', or name it .*--facts anwser"),
        ({"problem": "a", "source": "x"}, r"key 'source': .*--facts source"),
        ({"problem": "a", "completion": []}, "expected an assistant message last"),
        ({"problem": "a", "completion": CHAT[:1]}, "expected an assistant message last"),
        ({"problem": "a", "answer": 0.5}, r"key 'answer': found float 0.5; expected str or int. Write it as text"),
        ({"problem": "a", "answer": True}, "found bool True"),
        ({"problem": "a", "answer": " "}, "a non-empty answer"),
        ({"problem": 3}, r"key 'problem': found int 3; expected str or list"),
        ({"prompt": []}, "found no messages"),
        ({"prompt": CHAT}, "a last message of the assistant.*Move what follows into 'completion'"),
        ({"messages": CHAT}, "key 'id': found no such key"),
        ({"id": True, "messages": CHAT}, "key 'id': found bool True"),
        ({"id": "", "messages": CHAT}, "key 'id': found str ''"),
        ({"id": 1.5, "messages": CHAT}, "key 'id': found float 1.5"),
        ({"id": 10**5000, "messages": CHAT}, "key 'id': found a number of too many digits"),
        ({"id": "\ud800", "messages": CHAT}, "key 'id': found half a surrogate pair"),
        ({"id": 1, "messages": CHAT, "images": {"a": 1}}, "key 'images': found dict"),
        ({"id": 1, "messages": CHAT, "image": b"1", "images": [b"1"]}, "both 'image' and 'images'"),
        ({"id": 1, "messages": [{"from": "human", "value": "a", "role": "user"}]}, r"messages\[0\], key 'role'"),
        (
            {"id": 1, "messages": [{"from": "bing", "value": "a"}]},
            r"key 'messages\[0\].from': found str 'bing'; .*'gpt'",
        ),
        ({"id": 1, "messages": [{"role": "human", "content": "a"}]}, r"key 'messages\[0\].role': found str 'human'"),
        ({"id": 1, "messages": [{"role": "user", "content": "a", "images": ["a.png"]}]}, r"key 'images': found a key"),
        ({"id": 1, "messages": [{"from": "human"}]}, r"messages\[0\], key 'value': found no such key"),
        ({"id": 1, "conversations": "x"}, "key 'conversations': found str 'x'"),
        ({"id": 1, "messages": CHAT, "videos": ["a.mp4"]}, r"key 'videos': found a video; .*Videos are not read"),
    ],
)
def test_what_could_mean_two_things_or_nothing_is_named(row, message):
    with pytest.raises(DataError, match=message) as error:
        read(row)
    assert str(error.value).startswith("folder/rows.part.jsonl, row 7")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"messages": [{"role": "user", "content": "a\ud83d"}, CHAT[1]]}, "messages[0].content"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": "\udc00"}]}, "messages[1].content"),
        ({"facts": {"a": [{"b": "\udc00"}]}}, "facts.a[0].b"),
    ],
)
def test_half_a_surrogate_pair_names_its_row(changes, key):
    row = json.loads(json.dumps({"id": 1, "messages": CHAT} | changes))
    with pytest.raises(DataError, match=r"half a surrogate pair \(\\ud[0-9a-f]{3}\) at character \d") as error:
        read(row)
    assert error.value.key == key
    whole = json.loads('{"id": 1, "messages": [{"role": "user", "content": "\\ud83d\\ude00 \\u0000"}]}')
    assert read(whole).messages[0]["content"] == "😀 \0"


def test_a_hundred_turns():
    chat = CHAT * 50
    assert len(read({"id": 1, "messages": chat}).messages) == 100
