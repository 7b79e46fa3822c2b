"""`mmrole` reads what `lam-jax data build` made of the same files: the same rows, by the same names."""

from pathlib import Path

import pytest

from lam_jax.corpora.build import Sampling
from lam_jax.corpora.built import BuiltRows
from lam_jax.corpora.kinds import build_mmrole, build_pretraining
from lam_jax.recipes import mmrole
from tests.end_to_end.real_files import write_mmrole
from tests.recipes.shipped import REAL


@pytest.mark.parametrize("split", ["rl", "ood_test"])
def test_built_folders_are_read(split, tmp_path):
    files = {name: Path(path) for name, path in write_mmrole(tmp_path).items()}
    task, rows = tmp_path / "task", tmp_path / "rows"
    build_mmrole(files["raw"], task, Sampling(), files["images"])
    build_pretraining([files["paired"], files["text"]], rows, Sampling(held_out=0.1))
    plain = mmrole.recipe(**{**REAL, **{name: str(path) for name, path in files.items()}})
    built = mmrole.recipe(**{**REAL, "raw": str(task), "paired": str(rows), "text": str(rows)}, rows=20)
    assert isinstance(built.tasks[0].rows, BuiltRows)
    found, expected = (recipe.tasks[0].rows.read(tmp_path, split) for recipe in (built, plain))
    # A build writes its rows in an order of its own.
    assert {e.id: e.messages for e in found} == {e.id: e.messages for e in expected}
    assert len(found) == len(expected)
    assert {len(e.images) for e in found} == {1}
    for corpus, pictures in ((built.paired, 1), (built.text_only, 0)):
        assert len(corpus.rows.read(tmp_path, corpus.train)) == 20
        assert {len(e.images) for e in corpus.rows.read(tmp_path, corpus.held_out)} == {pictures}


def test_pictures_of_raw_files_lie_in_the_raw_folder_by_default():
    found = mmrole.recipe(**{**REAL, "images": None})
    assert found.tasks[0].rows.images == "raw"
