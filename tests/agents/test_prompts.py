"""Questions and files of rows as prompts, without an agent."""

import json

import pytest

from lam_jax.agents.answer_file import read_prompts
from lam_jax.agents.prompts import prompt_of
from lam_jax.data.layouts import RowParser
from lam_jax.data.schemas import DataError


def test_pictures_of_a_question_stand_where_its_tags_stand(make_png):
    one, two = make_png(seed=1), make_png(seed=2)
    example = prompt_of("Is <image> like\n<image>?", [one, two], "q")
    assert example.messages[0]["content"] == "Is  like\n?"
    assert (example.places, example.images) == (((0, 3), (0, 9)), (one, two))
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "<image>"},
    ]
    assert prompt_of(chat, one, "q").places == ((2, 0),)
    assert prompt_of("What?", [one, two], "q").places == ((0, 0), (0, 0))
    assert prompt_of("What is <image> in SVG?", None, "q").messages[0]["content"] == "What is <image> in SVG?"
    with pytest.raises(DataError, match="1 <image> tags for 2 pictures"):
        prompt_of("<image>?", [one, two], "q")


def test_prompts_are_read_from_every_kind_of_file(tmp_path, make_png):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.png").write_bytes(make_png())
    picture = {"bytes": make_png(), "path": None}
    rows = [
        {"problem": "<image>What?", "images": [picture], "level": 3},
        {"problem": "And?", "images": None, "level": 1},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="key 'level'"):
        read_prompts(tmp_path / "rows.parquet")
    first, second = read_prompts(tmp_path / "rows.parquet", parser=RowParser(facts=("level",)))
    assert (first.id, second.id, first.facts) == ("rows_0", "rows_1", {"level": 3})
    assert (first.images, second.images) == ((make_png(),), ())
    datasets = pytest.importorskip("datasets")
    chat = [{"from": "human", "value": "What?"}]
    made = datasets.Dataset.from_list([{"conversations": chat, "image": "a.png"}])
    made.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"no file .*saved/a\.png"):
        read_prompts(tmp_path / "saved")
    (only,) = read_prompts(tmp_path / "saved", image_root=tmp_path)
    assert (only.id, only.images) == ("saved_0", (tmp_path / "a.png",))
    (tmp_path / "twice.jsonl").write_text(
        json.dumps({"id": 1, "prompt": "a"}) + "\n" + json.dumps({"id": "1", "prompt": "b"})
    )
    with pytest.raises(DataError, match=r"twice\.jsonl, row 1, key 'id': found '1'"):
        read_prompts(tmp_path / "twice.jsonl")
