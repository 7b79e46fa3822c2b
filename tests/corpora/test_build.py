"""Builds: what is written, drawn and left out; whole or not at all; the same each time; read a row at a time."""

import io
import json
import os
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lam_jax.corpora import build as building
from lam_jax.corpora.build import Sampling
from lam_jax.corpora.built import BuiltRows, is_built
from lam_jax.corpora.kinds import build_corpus, build_mmrole, build_pretraining
from lam_jax.corpora.pictures import PictureError, checked_picture
from lam_jax.data.bad_rows import tolerant
from lam_jax.data.loader import Loader, LoaderConfig
from lam_jax.data.schemas import DataError, Where
from lam_jax.data.sources import RowSource, ShrinkableRows
from lam_jax.errors import BadSettingError
from tests.corpora.made import lines, picture, tar

CHAT = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]


def captions(path: Path, count: int) -> Path:
    """A tar of pictures, of which every fifth cannot be decoded."""
    members = []
    for index in range(count):
        data = picture(colour=(index % 256, 0, 0), kind="PNG")
        members.append((f"{index:04}.png", data[:40] if index % 5 == 4 else data))
        members.append((f"{index:04}.txt", f"Caption {index}.".encode()))
    return tar(path, members)


def texts(path: Path, count: int) -> Path:
    return lines(path, [{"text": f"Text {index}."} for index in range(count)])


def stored(folder: Path, split: str) -> dict:
    """Answer by id of a split."""
    return {example.id: example.reference for example in BuiltRows(str(folder)).read(folder, split)}


def snapshot(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "about.json"}


def test_a_build_is_drawn_checked_split_and_the_same_each_time(tmp_path):
    source = captions(tmp_path / "00000.tar", 50)
    sampling = Sampling(rows=30, held_out=0.1)
    built = build_corpus("cc12m", [source], tmp_path / "a", sampling)
    about = built.about
    assert (about.read, about.drawn) == (50, 30)
    train, test = stored(tmp_path / "a", "train"), stored(tmp_path / "a", "test")
    assert about.rows == {"train": len(train), "test": len(test)}
    assert not set(train) & set(test)
    kept = {**train, **test}
    assert all(answer == f"Caption {int(name[-4:])}." for name, answer in kept.items())
    assert not any(int(name[-4:]) % 5 == 4 for name in kept)
    assert about.dropped == {"broken image": 30 - len(kept)}
    assert 0 < 30 - len(kept) < 15
    assert 0 < len(test) <= 3
    dropped = [json.loads(line) for line in (tmp_path / "a" / "drops.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in dropped] == ["broken image"] * len(dropped)
    assert {row["row"] % 5 for row in dropped} == {4}
    other = build_corpus("cc12m", [source], tmp_path / "b", Sampling(rows=30, held_out=0.1, workers=1))
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    assert other.about == about
    assert BuiltRows(str(tmp_path / "a")).content() == BuiltRows(str(tmp_path / "b")).content()
    build_corpus("cc12m", [source], tmp_path / "c", Sampling(rows=30, held_out=0.1, seed=1))
    assert set(stored(tmp_path / "c", "train")) != set(train)
    assert BuiltRows(str(tmp_path / "c")).content() != BuiltRows(str(tmp_path / "a")).content()


def test_a_second_call_says_that_it_is_done_and_another_one_is_refused(tmp_path):
    source = texts(tmp_path / "x.jsonl", 20)
    first = build_corpus("slimpajama", [source], tmp_path / "out", Sampling())
    before = snapshot(tmp_path / "out")
    again = build_corpus("slimpajama", [source], tmp_path / "out", Sampling(workers=2))
    assert (first.was_there, again.was_there) == (False, True)
    assert again.about == first.about
    assert snapshot(tmp_path / "out") == before
    with pytest.raises(BadSettingError, match=r"other arguments \(seed: found 42, expected 7\)"):
        build_corpus("slimpajama", [source], tmp_path / "out", Sampling(seed=7))
    texts(source, 21)
    with pytest.raises(BadSettingError, match="other arguments"):
        build_corpus("slimpajama", [source], tmp_path / "out", Sampling())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(BadSettingError, match="other files there"):
        build_corpus("slimpajama", [source], tmp_path / "full", Sampling())
    (tmp_path / "texts").mkdir()
    texts(tmp_path / "texts" / "x.jsonl", 3)
    with pytest.raises(BadSettingError, match="inside the source"):
        build_corpus("slimpajama", [tmp_path / "texts"], tmp_path / "texts" / "out", Sampling())


def test_what_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    source = texts(tmp_path / "x.jsonl", 20)
    old = tmp_path / f".out.building-{socket.gethostname()}-999999999"
    alive = tmp_path / f".out.building-{socket.gethostname()}-{os.getppid()}"
    for folder in (old, alive):
        folder.mkdir()
        (folder / "dataset_info.json").write_text("{}")

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, "write_drops", stop)  # the records are written by then
        with pytest.raises(KeyboardInterrupt):
            build_corpus("slimpajama", [source], tmp_path / "out", Sampling())
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "x.jsonl"]
    with pytest.raises(DataError, match=r"no row that can be used; 1 rows dropped \(1 no text\)"):
        build_corpus("slimpajama", [lines(tmp_path / "y.jsonl", [{}])], tmp_path / "out", Sampling())
    assert not (tmp_path / "out").exists()


def test_a_held_out_row_that_cannot_be_used_is_replaced(tmp_path):
    members = [("0.txt", b"Zero."), ("0.png", picture(kind="PNG")), ("1.txt", b"One."), ("1.png", picture(kind="PNG"))]
    members += [(f"{i}.{kind}", b"broken") for i in range(2, 5) for kind in ("txt", "png")]
    for seed in range(3):  # with some of these the one held-out row is broken
        out = tmp_path / str(seed)
        built = build_corpus("cc12m", [tar(tmp_path / "a.tar", members)], out, Sampling(seed=seed))
        assert built.about.rows == {"train": 1, "test": 1}
        assert {*stored(out, "train"), *stored(out, "test")} == {"cc12m/a/0", "cc12m/a/1"}
    built = build_corpus("cc12m", [tar(tmp_path / "b.tar", members[:2] + members[4:])], tmp_path / "one", Sampling())
    assert stored(tmp_path / "one", "train") == stored(tmp_path / "one", "test") == {"cc12m/b/0": "Zero."}
    with pytest.raises(DataError, match=r"c\.tar: found no row for 'train'; 3 rows dropped \(3 broken image\)"):
        build_corpus("cc12m", [tar(tmp_path / "c.tar", members[4:])], tmp_path / "none", Sampling())
    assert not (tmp_path / "none").exists()


def test_built_rows_are_a_source_that_reads_a_row_at_a_time(tmp_path):
    build_corpus("cc12m", [captions(tmp_path / "0.tar", 12)], tmp_path / "out", Sampling(held_out=0.2))
    source = BuiltRows(str(tmp_path / "out"))
    assert isinstance(source, RowSource)
    assert isinstance(source, ShrinkableRows)
    assert is_built(tmp_path / "out")
    assert not is_built(tmp_path)
    rows = source.read(tmp_path, "train")
    number = int(rows[0].id[-4:])
    assert rows[0].images == (picture(colour=(number, 0, 0), kind="PNG"),)
    assert rows[-1].id == rows[len(rows) - 1].id
    assert [e.id for e in rows[2:4]] == [rows[2].id, rows[np.int64(3)].id]
    assert str(rows[0].where) == f"{tmp_path.name}/0.tar, row {number}"
    with pytest.raises(IndexError):
        rows[len(rows)]
    sent = pickle.loads(pickle.dumps(rows))
    assert [e.id for e in sent] == [e.id for e in rows]
    few = source.shrunk(3).read(tmp_path, "train")
    assert len(few) == 3
    assert {e.id for e in few} < {e.id for e in rows}
    assert source.shrunk(3).shrunk(5) == source.shrunk(3)
    loader = Loader(rows, lambda batch: sorted(e.id for e in batch), LoaderConfig(len(rows)))
    assert next(loader) == sorted(e.id for e in rows)
    with pytest.raises(DataError, match="no split 'sft'; expected one of"):
        source.read(tmp_path, "sft")
    with pytest.raises(DataError, match=r"no about\.json; expected a folder made by"):
        BuiltRows(str(tmp_path)).read(tmp_path, "train")
    (shard,) = (tmp_path / "out").glob("*train*array_record*")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DataError, match="expected a readable record"):
        pickle.loads(pickle.dumps(rows))[0]


def test_both_sides_of_the_pretraining_data_and_the_shorter_one_again(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(kind="PNG"))
    rows = [{"id": f"p{i}", "images": ["a.png"], "messages": CHAT} for i in range(4)]
    rows += [{"id": f"t{i}", "messages": CHAT} for i in range(2)]
    file = lines(tmp_path / "rows.jsonl", [*rows, rows[0], {"id": "x", "messages": []}])
    build_corpus("slimpajama", [texts(tmp_path / "s.jsonl", 9)], tmp_path / "s", Sampling(held_out=0.0))
    sides = build_pretraining([file, tmp_path / "s"], tmp_path / "out", Sampling(held_out=0.0))
    assert sides["paired"].about.rows["train"] == 4
    assert sides["paired"].about.dropped == {"duplicate id": 1}
    assert sides["text_only"].about.rows["train"] == 11
    assert sides["text_only"].about.dropped == {"no messages": 1}
    paired = BuiltRows(str(tmp_path / "out" / "paired")).read(tmp_path, "train")
    text_only = BuiltRows(str(tmp_path / "out" / "text_only")).read(tmp_path, "train")
    assert len(paired) == len(text_only) == 11
    times = [e.id for e in paired]
    assert sorted(times.count(f"p{i}") for i in range(4)) == [2, 3, 3, 3]
    assert {e.id for e in text_only} == {"t0", "t1", *(f"slimpajama/{tmp_path.name}/s/{i}" for i in range(9))}
    again = build_pretraining([file, tmp_path / "s"], tmp_path / "out", Sampling(held_out=0.0))
    assert {side: built.was_there for side, built in again.items()} == {"paired": True, "text_only": True}
    with pytest.raises(DataError, match=r"no row that can be used; 1 rows dropped \(1 no messages\)"):
        build_pretraining([lines(tmp_path / "no.jsonl", [{"id": 1}])], tmp_path / "none", Sampling())


def test_pictures_are_decoded_once_and_scaled_down(tmp_path):
    where = Where("x", 0)
    small = picture(40, 30)
    assert checked_picture(small, where, pixels=1200) is small
    scaled = Image.open(io.BytesIO(checked_picture(picture(400, 100), where, pixels=1600)))
    assert (scaled.format, scaled.size) == ("JPEG", (80, 20))
    out = io.BytesIO()
    turned = Image.new("RGB", (400, 100))
    turned.getexif()[0x0112] = 6  # stands on its side
    turned.save(out, "JPEG", exif=turned.getexif())
    assert Image.open(io.BytesIO(checked_picture(out.getvalue(), where, pixels=1600))).size == (20, 80)
    out = io.BytesIO()
    Image.new("RGBA", (100, 100), (0, 0, 0, 0)).save(out, "PNG")
    clear = Image.open(io.BytesIO(checked_picture(out.getvalue(), where, pixels=2500)))
    assert (clear.format, clear.mode, clear.size) == ("PNG", "RGBA", (50, 50))
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for data, reason in (
        (picture()[:-50], "broken image"),
        (b"<svg/>", "broken image"),
        (picture(3000, 10), "broken image"),
        (bomb.getvalue(), "image too large"),
    ):
        with pytest.raises(PictureError, match=reason):
            checked_picture(data, where)


def test_mmrole_into_records(tmp_path):
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    (raw / "images" / "a.png").write_bytes(picture(kind="PNG"))
    (raw / "images" / "b.png").write_bytes(b"broken")
    turns = [{"role": "human", "value": "What?"}, {"role": "Bo", "value": "A cat."}]
    for distribution, file, count in (
        ("in-distribution", "comment/Bo_COCO.json", 20),
        ("out-of-distribution", "comment.json", 3),
    ):
        path = raw / "dialogues" / distribution / file
        path.parent.mkdir(parents=True)
        rows = [{"id": f"{distribution[0]}{i}", "image": "a.png", "conversations": turns} for i in range(count)]
        rows[0]["image"] = "b.png"
        rows[1]["conversations"] = [turns[0], {"role": "Bo", "value": "Half \ud83d."}]
        rows[2]["conversations"] = [turns[0], {"role": "Bo", "value": "An <image> tag."}]
        path.write_text(json.dumps([*rows, {"id": "e", "image": "a.png", "conversations": []}]))
        profiles = raw / "profiles" / distribution / "detailed_profiles"
        profiles.mkdir(parents=True)
        (profiles / "Bo.json").write_text(json.dumps({"introduction": "A wizard."}))
    built = build_mmrole(raw, tmp_path / "out", Sampling(), raw / "images")
    assert built.about.read == 25
    assert built.about.dropped == {"broken image": 2, "empty conversation": 2, "unusable row": 2}
    assert sum(built.about.rows.values()) == 19
    assert list(built.about.rows) == ["sft", "rl", "sft_val", "rl_val", "id_test", "ood_test"]
    from lam_jax.tasks.mmrole import MMRoleRows

    for split in built.about.rows:
        with tolerant():
            plain = {e.id: e for e in MMRoleRows(str(raw), str(raw / "images")).read(tmp_path, split)}
        for example in BuiltRows(str(tmp_path / "out")).read(tmp_path, split):
            assert example.messages == plain[example.id].messages
            assert example.images == (picture(kind="PNG"),)


def test_pretraining_rows_of_every_layout_keep_their_pictures_where_they_stand(tmp_path, monkeypatch):
    data = picture(kind="PNG")
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.png").write_bytes(data)
    monkeypatch.chdir(tmp_path)  # where a.png is found by chance, too
    inside = [
        {"type": "text", "text": "Is <image> "},
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "?"},
    ]
    outside = [{"type": "image", "image": str(tmp_path / "a.png")}]
    said = [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Hi."}]
    said += [{"from": "human", "value": "And <image> this?"}, {"from": "gpt", "value": "Yes."}]
    answer = {"role": "assistant", "content": "Yes."}
    rows = [
        {"id": "parts", "messages": [{"role": "user", "content": inside}, answer]},
        {"id": "outside", "messages": [{"role": "user", "content": outside}, answer]},
        {"image": "a.png", "conversations": said},
        {"prompt": "<image>Which?", "completion": "This.", "images": ["a.png"]},
        {"id": "two", "images": ["a.png"] * 2, "messages": CHAT},
        {"id": "text", "problem": "Show <image>.", "answer": 3},
    ]
    file = lines(tmp_path / "rows" / "rows.jsonl", rows)
    sides = build_pretraining([file], tmp_path / "out", Sampling(held_out=0.0))
    assert sides["paired"].about.dropped == {"several pictures": 1, "unusable row": 1}
    assert sides["text_only"].about.dropped == {}
    paired = {e.id: e for e in BuiltRows(str(tmp_path / "out" / "paired")).read(tmp_path, "train")}
    found = {name: (e.images, e.places, e.messages[e.places[0][0]]["content"]) for name, e in paired.items()}
    assert found == {
        "parts": ((data,), ((0, 11),), "Is <image> ?"),
        "rows/rows/2": ((data,), ((2, 4),), "And  this?"),
        "rows/rows/3": ((data,), ((0, 0),), "Which?"),
    }
    (text,) = {e.id: e for e in BuiltRows(str(tmp_path / "out" / "text_only")).read(tmp_path, "train")}.values()
    assert (text.prompt[0]["content"], text.reference) == ("Show <image>.", "3")
    again = build_pretraining([tmp_path / "out"], tmp_path / "again", Sampling(held_out=0.0))
    assert {side: built.about.rows for side, built in again.items()} == {
        "paired": {"train": 3},
        "text_only": {"train": 1},
    }


def test_pretraining_rows_that_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"id": str(i), "image": {"bytes": picture(colour=(i, 0, 0))}, "messages": CHAT} for i in range(4)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    built = build_pretraining([tmp_path / "saved"], tmp_path / "out", Sampling(held_out=0.0))
    assert built["paired"].about.rows == {"train": 4}
    assert built["paired"].about.dropped == {}
