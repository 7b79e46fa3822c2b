"""Pictures that rows exchange: how many, among whom, and that nothing else changes."""

import dataclasses

import pytest

from lam_jax import MispairedRows
from lam_jax.data.schemas import Example
from lam_jax.recipes import demo


@dataclasses.dataclass(frozen=True)
class Rows:
    """40 rows with one picture each, 10 with two, 5 with none."""

    def prepare(self, folder):
        (folder / "prepared").write_text("")

    def read(self, folder, split):
        chat = ({"role": "user", "content": "What?"}, {"role": "assistant", "content": "A thing."})
        pictures = [(f"{i}".encode(),) for i in range(40)] + [(f"{i}a".encode(), f"{i}b".encode()) for i in range(10)]
        return [Example(f"{split}-{i}", chat, images) for i, images in enumerate([*pictures, *[()] * 5])]

    def content(self):
        return "rows"


@pytest.mark.parametrize(("share", "one", "two"), [(0.0, 0, 0), (0.2, 8, 2), (0.5, 20, 5), (1.0, 40, 10)])
def test_a_share_of_the_rows_has_pictures_of_others(tmp_path, share, one, two):
    plain, rows = Rows().read(tmp_path, "train"), MispairedRows(Rows(), share)
    found = rows.read(tmp_path, "train")
    moved = [new for old, new in zip(plain, found, strict=True) if old.images != new.images]
    assert ([len(e.images) for e in moved].count(1), [len(e.images) for e in moved].count(2)) == (one, two)
    assert sorted(e.images for e in found) == sorted(e.images for e in plain), "no picture is lost or used twice"
    assert [dataclasses.replace(e, images=(), places=()) for e in found] == [
        dataclasses.replace(e, images=(), places=()) for e in plain
    ]
    assert found == rows.read(tmp_path, "train")
    assert rows.read(tmp_path, "test") == Rows().read(tmp_path, "test")


def test_it_is_another_source(tmp_path):
    rows = MispairedRows(Rows(), 0.5)
    rows.prepare(tmp_path)
    assert (tmp_path / "prepared").exists()
    changed = (MispairedRows(Rows(), 0.4), dataclasses.replace(rows, seed=1), dataclasses.replace(rows, split="x"))
    assert len({each.content() for each in (rows, *changed)}) == 4
    assert dataclasses.replace(rows, seed=1).read(tmp_path, "train") != rows.read(tmp_path, "train")
    with pytest.raises(ValueError, match=r"share is 1.5, expected 0 to 1"):
        MispairedRows(Rows(), 1.5)


def test_the_demo_takes_it_for_its_paired_rows():
    recipe = demo.recipe(mispaired=0.2)
    assert isinstance(recipe.paired.rows, MispairedRows)
    assert recipe.paired.rows.shrunk(9).source == demo.recipe().paired.rows.shrunk(9)
    assert recipe.from_json(recipe.to_json()) == recipe
    assert demo.recipe(mispaired=0.0) == demo.recipe()
