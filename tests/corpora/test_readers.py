"""Raw sets into pre-training rows: what each row becomes, and what is counted."""

import hashlib
import json
from pathlib import Path

import pytest

from lam_jax.corpora.cc12m import read_cc12m
from lam_jax.corpora.llava_next import read_llava_next
from lam_jax.corpora.n24news import NO_BODY, read_n24news
from lam_jax.corpora.pictures import Slice, picture_bytes
from lam_jax.corpora.pretraining import read_pretraining_rows
from lam_jax.corpora.rows import DESCRIBE
from lam_jax.corpora.texts import read_helpsteer3, read_slimpajama
from lam_jax.corpora.wikiweb2m import read_wikiweb2m
from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError
from tests.corpora.made import lines, picture, sequence_example, tar, tfrecord


def read(reader, source, images=None, light=False, **options):
    drops = Drops()
    sources = source if isinstance(source, list) else [source]
    return [row for row, _ in reader(sources, images, drops, light=light, **options)], dict(drops.counts)


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def test_llava_next_json(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture())
    turns = [human("<image>\nWhat is it?"), gpt("A cat."), human("Why?"), gpt("So.")]
    rows = [
        {"id": "1", "image": "a.jpg", "conversations": turns, "data_source": "vqa"},
        {"id": "2", "conversations": turns[2:]},
        {"id": "3", "image": "gone.jpg", "conversations": turns},
        {"id": "4", "image": "../../etc/passwd", "conversations": turns},
        {"id": "5", "image": "a.jpg", "conversations": []},
        {"id": "6", "image": "a.jpg", "conversations": turns[:1]},
        {"id": "7", "image": "a.jpg", "conversations": [*turns[:1], gpt(" ")]},
        {"id": "8", "image": "a.jpg", "conversations": [*turns[:1], {"from": "alien", "value": "x"}]},
        {"id": None, "image": "a.jpg", "conversations": turns},
        "text",
    ]
    found, drops = read(read_llava_next, lines(tmp_path / "x.jsonl", rows))
    assert found == [
        {
            "id": "llava-next/1",
            "images": [tmp_path / "a.jpg"],
            "messages": [
                {"role": "user", "content": "<image>\nWhat is it?"},
                {"role": "assistant", "content": "A cat."},
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "So."},
            ],
            "instance_type": "vqa",
        }
    ]
    assert drops == {
        "no image": 1,
        "missing image": 1,
        "image outside the folder": 1,
        "no conversation": 1,
        "no answer to a user": 1,
        "empty answer": 1,
        "unusable turn": 1,
        "no id": 1,
        "no object": 1,
    }


def test_llava_next_parquet_rows_are_the_same_with_and_without_pictures(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    data, turns = picture(), [human("<image>\nWhat?"), gpt("A cat.")]
    rows = [
        {"id": "a", "conversations": turns, "image": {"bytes": data, "path": "a.jpg"}, "data_source": "s"},
        {"id": "b", "conversations": [human("What?"), gpt("No.")], "image": None, "data_source": "s"},
        {"id": "c", "conversations": turns, "image": None, "data_source": "s"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    found, drops = read(read_llava_next, tmp_path)
    assert [(row["id"], row["images"]) for row in found] == [("llava-next/a", [data]), ("llava-next/c", [b""])]
    light, same = read(read_llava_next, tmp_path, light=True)
    assert [(row["id"], row["images"]) for row in light] == [("llava-next/a", [b""]), ("llava-next/c", [b""])]
    assert drops == same == {"no image": 1}


def test_cc12m_tars(tmp_path):
    data = picture()
    members = [
        ("0001.jpg", data),
        ("0001.txt", "A red cat.".encode("utf-8-sig")),
        ("0001.json", b'{"caption": "not this one"}'),
        ("0002.json", b'{"caption": "From the JSON. <image>"}'),
        ("0002.png", data),
        ("0003.jpg", data),
        ("0004.txt", b"No picture."),
        ("0005.jpg", data),
        ("0005.txt", b" "),
        ("../0006.jpg", data),
        ("../0006.txt", b"Climbs out."),
        ("/0007.jpg", data),
        ("/0007.txt", b"Absolute."),
        ("0008.jpg", data),
        ("0008.txt", b"\xff\xfe"),
    ]
    path = tar(tmp_path / "00000.tar", members, links=(("0009.jpg", "/etc/passwd"),))
    found, drops = read(read_cc12m, tmp_path)
    assert [row["id"] for row in found] == ["cc12m/00000/0001", "cc12m/00000/0002"]
    assert [row["messages"][1]["content"] for row in found] == ["A red cat.", "From the JSON."]
    assert all(row["messages"][0]["content"] in DESCRIBE for row in found)
    assert all(picture_bytes(row["images"][0]) == data for row in found)
    assert found[0]["images"] == [Slice(path, 512, len(data))]
    assert drops == {
        "no caption": 2,
        "missing image": 1,
        "name outside the tar": 2,
        "caption that cannot be read": 1,
        "no plain file in a tar": 1,
    }
    assert not (tmp_path.parent / "0006.jpg").exists()


def test_damaged_and_packed_tars(tmp_path):
    data = tar(
        tmp_path / "a.tar", [(f"{i}.{end}", b"x" * 3000) for i in range(3) for end in ("jpg", "txt")]
    ).read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: 5 * 3584 - 100])
    found, drops = read(read_cc12m, tmp_path / "a.tar")
    assert [row["id"] for row in found] == ["cc12m/a/0", "cc12m/a/1"]
    assert drops == {"rest of a damaged file": 1}
    (tmp_path / "b.tar").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(DataError, match=r"b\.tar: found a packed tar.*gunzip"):
        read(read_cc12m, tmp_path / "b.tar")


def test_n24news(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "id-1.jpg").write_bytes(picture())
    news = {
        "section": "Health",
        "headline": "Cats &amp; dogs",
        "abstract": "On both.",
        "caption": "A cat.",
        "image_id": "id-1",
    }
    rows = [
        news | {"body": "Once upon a time."},
        news | {"body": NO_BODY, "caption": None},
        news | {"article": "An article."},
        news | {"image_id": "id-2"},
        news | {"image_id": "../id-1"},
        news | {"headline": ""},
        news | {"image_id": None},
    ]
    (tmp_path / "nytimes.json").write_text(json.dumps(rows))
    found, drops = read(read_n24news, tmp_path / "nytimes.json")
    assert [row["messages"][1]["content"] for row in found] == [
        "Cats & dogs\n\nOn both.\n\nOnce upon a time.",
        "Cats & dogs\n\nOn both.",
        "Cats & dogs\n\nOn both.\n\nAn article.",
    ]
    assert found[0]["messages"][0]["content"].endswith("Its caption: A cat.")
    assert "caption" not in found[1]["messages"][0]["content"]
    assert found[0]["images"] == [tmp_path / "images" / "id-1.jpg"]
    assert drops == {"missing image": 1, "image outside the folder": 1, "no article": 1, "no id": 1}


URL = "https://upload.wikimedia.org/wikipedia/commons/a/ab/Red%20cat.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "upload.wikimedia.org/wikipedia/commons/a/ab/Red%20cat.jpg",
        "upload.wikimedia.org/wikipedia/commons/a/ab/Red cat.jpg",
        "wikipedia/commons/a/ab/Red%20cat.jpg",
        hashlib.sha256(URL.encode()).hexdigest() + ".jpg",
    ],
)
def test_wikiweb2m_pictures_by_their_address(tmp_path, name):
    path = tmp_path / "pictures" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(picture())
    page = {
        "page_title": "Cat",
        "page_url": "https://en.wikipedia.org/wiki/Cat",
        "section_title": ["Cat", "Colours"],
        "section_text": ["Cats.", "Cats have colours."],
        "section_image_url": [[], [URL, "https://x.org/Red%20cat.jpg"]],
        "section_image_clean_ref_desc": [[], ["", "Another."]],
        "section_image_captions": [[], ["A red cat", "Another"]],
    }
    found, drops = read(read_wikiweb2m, lines(tmp_path / "x.jsonl", [page]), tmp_path / "pictures")
    assert found == [
        {
            "id": "wikiweb2m/https://en.wikipedia.org/wiki/Cat#1.0",
            "images": [path],
            "messages": [
                {"role": "user", "content": found[0]["messages"][0]["content"]},
                {"role": "assistant", "content": "A red cat\n\nCats have colours."},
            ],
            "instance_type": "wikipedia",
        }
    ]
    assert 'the article "Cat", section "Colours". Then write that section.' in found[0]["messages"][0]["content"]
    assert drops == {"missing image": 1}, "another address with the same last part is another picture"


def test_wikiweb2m_tfrecords(tmp_path):
    file = tmp_path / "pictures" / "w" / "a.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(picture())
    lists = {
        "section_title": [["Top"], ["Below"]],
        "section_text": [["First."], []],
        "section_image_url": [["https://h/w/a.jpg"], []],
        "section_image_clean_ref_desc": [["A caption"], []],
    }
    context = {"page_title": ["Title"], "page_url": ["https://p"]}
    empty = sequence_example(context, {"section_image_url": [[], []]})
    path = tmp_path / "wikiweb2m-test.tfrecord"
    path.write_bytes(tfrecord([sequence_example(context, lists), empty]))
    found, drops = read(read_wikiweb2m, path, tmp_path / "pictures")
    assert [(row["id"], row["messages"][1]["content"]) for row in found] == [
        ("wikiweb2m/https://p#0.0", "A caption\n\nFirst.")
    ]
    assert drops == {"page without images": 1}
    with pytest.raises(DataError, match="--image-root"):
        read(read_wikiweb2m, path)


def test_helpsteer3_takes_the_preferred_answer_and_of_a_tie_the_second(tmp_path):
    row = {
        "domain": "general",
        "context": [{"role": "user", "content": "Hi <image>"}],
        "response1": "One",
        "response2": "Two",
    }
    rows = [row | {"overall_preference": n} for n in (-3, -1, 0, 1, 3)]
    rows += [
        row | {"overall_preference": None},
        row | {"overall_preference": True},
        row,
        row | {"overall_preference": 1, "response2": ""},
        row | {"overall_preference": 1, "context": []},
        row | {"overall_preference": 1, "context": [*row["context"], {"role": "assistant", "content": "x"}]},
        row | {"overall_preference": 1, "context": [{"role": "tool", "content": "x"}]},
    ]
    found, drops = read(read_helpsteer3, lines(tmp_path / "train.jsonl.gz", rows))
    assert [r["messages"][-1]["content"] for r in found] == ["One", "One", "Two", "Two", "Two"]
    assert found[0]["messages"][0]["content"] == "Hi <image>"
    assert "images" not in found[0]
    assert len({r["id"] for r in found}) == 5
    assert drops == {
        "no preference": 3,
        "empty answer": 1,
        "no context": 1,
        "context that does not end with the user": 1,
        "unusable turn": 1,
    }


def test_slimpajama(tmp_path):
    path = lines(
        tmp_path / "example_train_0.jsonl.zst", [{"text": " A <image> text.\n"}, {"text": ""}, {"text": 3}, {}]
    )
    found, drops = read(read_slimpajama, path)
    assert [r["messages"] for r in found] == [
        [{"role": "user", "content": "Write a text."}, {"role": "assistant", "content": "A <image> text."}]
    ]
    assert drops == {"no text": 3}


def test_pretraining_rows_by_side(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture())
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rows = [
        {"id": 1, "images": ["a.jpg"], "messages": chat},
        {"id": "2", "messages": chat},
        {"id": "3", "images": ["../a.jpg"], "messages": chat},
        {"id": "4", "images": ["b.jpg"], "messages": chat},
        {"id": "5"},
        7,
    ]
    path = lines(tmp_path / "x.jsonl", rows)
    found, drops = read(read_pretraining_rows, path, paired=True)
    assert [(row["id"], row["images"]) for row in found] == [("1", [tmp_path / "a.jpg"])]
    assert drops == {"image outside the folder": 1, "missing image": 1, "no object": 1}
    found, drops = read(read_pretraining_rows, path, paired=False, shared=False)
    assert [row["id"] for row in found] == ["2"]
    assert drops == {"no messages": 1}


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "a/../../x.jpg", "..\\x.jpg", "\0", "x" * 5000, "\ud800.jpg", "", None, 3]
)
def test_names_of_pictures_never_leave_the_folder(tmp_path, name):
    from lam_jax.tasks.picture_files import picture_file

    (tmp_path / "root").mkdir()
    (tmp_path / "x.jpg").write_bytes(b"outside")
    assert picture_file(tmp_path / "root", name) in ("missing image", "image outside the folder")
    assert isinstance(picture_file(tmp_path, "x.jpg"), Path)
