"""A small run of all stages in both spaces, on files of one's own, and what may be cut from it."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lam_jax.cli import main
from lam_jax.recipe import Recipe
from tests.end_to_end.own_files import flags, write_files


def make_run(folder: Path, reward: str, *more: str) -> Iterator[Path]:
    """The run folder `folder/run`; `reward`: name of the reward's module, one for each test module; `more`: flags."""
    path = [*sys.path]
    args = ["train", "own", *flags(write_files(folder, reward)), "--quick", "--out", str(folder / "run"), *more]
    assert main([*args, "--mesh", "1", "1", "1"]) == 0
    yield folder / "run"
    sys.path[:] = path


def recipe_of(run: Path) -> Recipe:
    """The recipe of a run."""
    return Recipe.from_json(json.dumps(json.loads((run / "config.json").read_text())["config"]["recipe"]))


def stopped(run: Path, target: Path, *phases: str, results: bool = False) -> Path:
    """The run as it would be with only these phases complete."""
    (target / "phases").mkdir(parents=True)
    shutil.copyfile(run / "config.json", target / "config.json")
    for phase in phases:
        (target / "phases" / phase).symlink_to(run / "phases" / phase)
    if results:
        shutil.copyfile(run / "results.json", target / "results.json")
    return target


def with_config(run: Path, target: Path, change) -> Path:
    """The run with another config.json: `change` alters its values in place."""
    target.mkdir()
    (target / "phases").symlink_to(run / "phases")
    values = json.loads((run / "config.json").read_text())
    change(values["config"])
    (target / "config.json").write_text(json.dumps(values))
    return target
