"""Bad rows are skipped at reading and at batch time, by any number of processes and workers; the position holds."""

import json

import numpy as np
import pytest
from PIL import Image

from lam_jax.data.bad_rows import BadRowError, Skip, pictures_of, tolerant
from lam_jax.data.collator import Collator, CollatorConfig
from lam_jax.data.loader import Loader, LoaderConfig, in_order
from lam_jax.data.readers import chat_examples
from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.data.sources import JsonRows
from lam_jax.data.workers import PicturePool, picture_pool
from lam_jax.models.processor import ImageSettings
from tests.data.in_worker import has_jax, kill_worker

IMAGE = ImageSettings(size=(56, 56))
CHAT = ({"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."})


def pictures(folder, count):
    """Rows 0 to count - 1, each with a picture of a colour of its own."""
    for i in range(count):
        Image.new("RGB", (40, 30), (i, 2 * i, 255 - i)).save(folder / f"{i}.png")
    return [Example(str(i), CHAT, (folder / f"{i}.png",), None, Where("rows.json", i)) for i in range(count)]


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


class Log(list):
    def __call__(self, skipped):
        self.extend(skipped)


def collator(encoder, log=None, workers=0, most=1.0, **fields):
    config = CollatorConfig(**({"lengths": (64,), "image": IMAGE} | fields))
    return Collator(encoder, config, workers, None if log is None else Skip(log, most))


def drawn(loader, batches):
    return [next(loader) for _ in range(batches)]


def ids(collated):
    return [[example.id for example in made.examples] for made in collated]


def test_a_bad_row_is_replaced_by_the_next_good_one_and_told_of(encoder, tmp_path):
    rows = pictures(tmp_path, 12)
    whole = ids(drawn(Loader(rows, collator(encoder), LoaderConfig(4, seed=3)), 6))
    truncated(tmp_path / "3.png")
    (tmp_path / "7.png").unlink()
    (tmp_path / "8.png").write_bytes(b"junk")
    log = Log()
    found = ids(drawn(Loader(rows, collator(encoder, log), LoaderConfig(4, seed=3, prefetch=0)), 6))
    instead = {"3": "4", "7": "9", "8": "9"}  # after 7 comes 8, which is bad too
    assert found == [[instead.get(name, name) for name in batch] for batch in whole]
    by_row = {row.where.row: row for row in log}
    assert {i: row.reason for i, row in by_row.items()} == {
        3: "broken_picture",
        7: "missing_picture",
        8: "broken_picture",
    }
    assert by_row[7].picture == str(tmp_path / "7.png")
    assert by_row[7].replaced_by == Where("rows.json", 9)
    assert len(log) == 2 * 4  # two epochs: 3, 7 (and 8 on the way), 8


def test_the_stream_is_the_same_for_any_workers_shares_and_place_of_resuming(encoder, tmp_path):
    rows = pictures(tmp_path, 10)
    for i in (2, 5):
        truncated(tmp_path / f"{i}.png")
    config = LoaderConfig(4, seed=1, prefetch=2)
    plain = Loader(rows, collator(encoder, Log()), config)
    expected = drawn(plain, 3)
    state = json.loads(json.dumps(plain.get_state()))
    expected += drawn(plain, 4)
    workers = Loader(rows, collator(encoder, Log(), workers=2), config)
    for one, other in zip(drawn(workers, 7), expected, strict=True):
        assert ids([one]) == ids([other])
        np.testing.assert_array_equal(one.batch.images.patches, other.batch.images.patches)
    resumed = Loader(rows, collator(encoder, Log(), workers=2), config)
    resumed.set_state(state)
    assert ids(drawn(resumed, 4)) == ids(expected[3:])
    for share in ((0, 1), (2, 3), (1, 3)):
        part = drawn(Loader(rows, collator(encoder, Log()), LoaderConfig(4, seed=1, rows=share)), 7)
        assert ids(part) == [[batch[row] for row in share] for batch in ids(expected)]


def test_a_picture_that_breaks_between_start_and_resume_moves_no_other_row(encoder, tmp_path):
    rows = pictures(tmp_path, 9)
    config = LoaderConfig(3, seed=2, prefetch=0)
    loader = Loader(rows, collator(encoder, Log()), config)
    before = ids(drawn(loader, 2))
    state = loader.get_state()
    after = ids(drawn(loader, 6))
    (tmp_path / "4.png").unlink()
    log = Log()
    resumed = Loader(rows, collator(encoder, log), config)
    resumed.set_state(state)
    found = ids(drawn(resumed, 6))
    assert found == [["5" if name == "4" else name for name in batch] for batch in after]
    assert len(log) == sum(batch.count("4") for batch in after) > 0
    assert len(before) == 2


def test_batches_made_ahead_are_told_of_when_they_are_used(encoder, tmp_path):
    rows = pictures(tmp_path, 4)
    truncated(tmp_path / "0.png")
    log = Log()
    loader = Loader(rows, collator(encoder, log), LoaderConfig(4, prefetch=3))
    next(loader)
    assert len(log) == 1
    next(loader)
    assert len(log) == 2


def test_without_skip_the_row_the_picture_and_the_ways_out_are_named(encoder, tmp_path):
    rows = pictures(tmp_path, 4)
    truncated(tmp_path / "2.png")
    with pytest.raises(BadRowError) as caught:
        drawn(Loader(rows, collator(encoder), LoaderConfig(4)), 1)
    for part in ("rows.json, row 2", str(tmp_path / "2.png"), "--bad-rows skip", "lam-jax data check", "truncated"):
        assert part in str(caught.value)


def test_too_many_bad_rows_end_it_and_none_left_does_in_any_case(encoder, tmp_path):
    rows = pictures(tmp_path, 22)
    for i in range(5):
        truncated(tmp_path / f"{i}.png")
    drawn(Loader(rows, collator(encoder, Log(), most=0.3), LoaderConfig(11, prefetch=0)), 4)
    with pytest.raises(DataError, match=r"5 of 22 rows that cannot be used.*at most 20%"):
        drawn(Loader(rows, collator(encoder, Log(), most=0.2), LoaderConfig(11, prefetch=0)), 4)
    with pytest.raises(DataError, match="5 of 22 rows"):
        list(in_order(rows, collator(encoder, Log(), most=0.2), 4))
    assert ids(in_order(rows[2:6], collator(encoder, Log(), most=0.2), 4)) == [["5"]]  # of four a share says nothing
    with pytest.raises(DataError, match="3 of 3 rows"):
        drawn(Loader(rows[:3], collator(encoder, Log()), LoaderConfig(2)), 1)
    with pytest.raises(DataError, match="3 of 3 rows"):
        list(in_order(rows[:3], collator(encoder, Log()), 2))


def test_evaluation_leaves_bad_rows_out_and_keeps_the_shape(encoder, tmp_path):
    rows = pictures(tmp_path, 7)
    for i in (1, 4, 5):
        truncated(tmp_path / f"{i}.png")
    log = Log()
    made = list(in_order(rows, collator(encoder, log), 2))
    assert ids(made) == [["0"], ["2", "3"], ["6"]]  # rows 4 and 5 were a batch of their own
    assert [m.batch.tokens.shape for m in made] == [(2, 64)] * 3
    assert made[0].batch.mask.any(axis=1).tolist() == [True, False]
    assert sorted(row.where.row for row in log) == [1, 4, 5]


def test_rows_whose_pictures_or_text_do_not_fit_are_bad_rows_too(encoder, tmp_path):
    good, large, text = pictures(tmp_path, 3)
    large = Example("1", CHAT, large.images * 2, None, Where("rows.json", 1))
    text = Example("2", ({"role": "user", "content": "Hm?"},), (), None, Where("rows.json", 2))  # no answer
    log = Log()
    made = collator(encoder, log)([good, large, text])
    assert ids([made]) == [["0"]]
    assert [row.reason for row in log] == ["too_large_pictures", "bad_text"]
    assert "2 images of 32 patches; expected at most 1 images" in log[0].text


@pytest.mark.parametrize("error", [KeyError(7), OverflowError("big"), MemoryError(), RecursionError("deep")])
def test_whatever_a_decoder_raises_is_a_bad_picture(encoder, tmp_path, monkeypatch, error):
    def explode(*_):
        raise error

    monkeypatch.setattr("lam_jax.data.workers.process_image", explode)
    log = Log()
    made = collator(encoder, log)(pictures(tmp_path, 1), 2)
    assert (made.examples, [row.reason for row in log]) == ((), ["broken_picture"])
    assert type(error).__name__ in log[0].text


def test_a_picture_that_kills_its_worker_is_bad_and_no_other_is(tmp_path):
    pool = PicturePool(2)
    waits = [pool.map(kill_worker, pictures_of(row), IMAGE) for row in pictures(tmp_path, 4)]
    with pytest.raises(BadRowError, match=r"rows.json, row 0, picture .*0.png: found a picture that a worker process"):
        waits[0]()
    for wait in waits[1:]:
        assert wait()[0][1] == (1, 4, 4)
    pool.close()


def test_workers_import_no_jax(tmp_path):
    (row,) = pictures(tmp_path, 1)
    assert picture_pool(2).map(has_jax, pictures_of(row), IMAGE)() == [False]


def write(folder, rows, name="rows.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def chat_row(i, **fields):
    return {"id": f"r{i}", "messages": list(CHAT)} | fields


def test_rows_that_a_reader_refuses_are_tallied_and_the_others_keep_their_index(tmp_path):
    rows = [
        chat_row(0),
        "{broken",
        chat_row(2, messages=[]),
        chat_row(3, image="gone.png"),
        chat_row(0),
        17,
        chat_row(6, messages=7),
    ]
    source = JsonRows(write(tmp_path, rows), {"all": (0.0, 1.0)}, parse=chat_examples)
    with pytest.raises(DataError):
        source.read(tmp_path, "all")
    with tolerant() as tally:
        found = source.read(tmp_path, "all")
    # Whether the picture exists is asked when its batch is made.
    assert sorted(e.where.row for e in found) == [0, 3, 4]
    assert sorted(d.where.row for d in tally.dropped.values()) == [1, 2, 5, 6]
    assert len(tally.rows) == 7
    assert "line 2" in next(d.text for d in tally.dropped.values() if d.where.row == 1)
    ((double, message),) = tally.duplicates
    assert (double.id, "which" in message) == ("r0", True)
    with tolerant(False) as nothing, pytest.raises(DataError):
        source.read(tmp_path, "all")
    assert not nothing.rows


def test_a_reader_of_ones_own_may_raise_anything(tmp_path):
    def parse(row, where, root):
        return [Example(row["id"], CHAT, (), None, where)] if row["id"] != "r1" else row["no such key"]

    source = JsonRows(write(tmp_path, [chat_row(0), chat_row(1)]), {"all": (0.0, 1.0)}, parse=parse)
    with tolerant() as tally:
        assert [e.id for e in source.read(tmp_path, "all")] == ["r0"]
    assert tally.reasons == {"KeyError": 1}


def test_a_row_of_a_list_that_json_cannot_keep_is_left_out_alone(tmp_path):
    good = {"id": "a", "messages": CHAT}
    text = json.dumps([good, {**good, "id": float("nan")}, {**good, "id": "b"}, 1, {**good, "id": "c"}])
    text = text.replace(" 1,", f' {{"id": "x", "id": "y"}}, {"9" * 5000},')
    (tmp_path / "rows.json").write_text(text)
    source = JsonRows(str(tmp_path / "rows.json"), {"train": (0.0, 1.0)})
    with tolerant() as tally:
        assert sorted(e.id for e in source.read(tmp_path, "train")) == ["a", "b", "c"]
    assert sorted(d.where.row for d in tally.dropped.values()) == [1, 3, 4]
    with pytest.raises(DataError, match=r"row 1: found NaN"):
        source.read(tmp_path, "train")
    (tmp_path / "rows.json").write_text(text[:-9])
    with tolerant(), pytest.raises(DataError, match="cut or edited"):
        source.read(tmp_path, "train")
