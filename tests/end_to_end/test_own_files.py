"""`lam-jax train own` on files of one's own, without the built-in world: all stages in both spaces."""

import json
import sys

import pytest

from lam_jax.cli import main
from tests.cli.test_cli import call
from tests.end_to_end.own_files import flags, value, write_files


@pytest.fixture(scope="module")
def made(tmp_path_factory, quick_compilation):
    """The folder, the command and what it left."""
    folder = tmp_path_factory.mktemp("own")
    path = [*sys.path]
    args = [
        "train",
        "own",
        *flags(write_files(folder)),
        "--quick",
        "--out",
        str(folder / "run"),
        "--mesh",
        "1",
        "1",
        "1",
    ]
    assert main(args) == 0
    yield folder, args, json.loads((folder / "run" / "results.json").read_text())
    sys.path[:] = path


def test_all_stages_run_and_are_scored(made):
    folder, _, results = made
    assert [(s["task"], s["space"], s["phase"], s["split"]) for s in results["scores"]] == [
        ("own", space, phase, "id") for space in ("latent", "token") for phase in ("sft", "rl")
    ]
    for row in results["scores"]:
        assert 0 <= row["mean"] <= 1
        assert list(row["dimensions"]) == ["all"]
    assert results["gain"][0]["prompts"] == 8
    shown = [answer for sample in results["samples"] for answer in sample["answers"]]
    assert shown
    assert [answer["score"] for answer in shown] == pytest.approx([value(answer["text"]) for answer in shown])
    assert "Own" in (folder / "run" / "report.html").read_text()


def test_a_finished_run_is_restored(made):
    folder, args, results = made
    assert main(args) == 0
    again = json.loads((folder / "run" / "results.json").read_text())
    assert again["scores"] == results["scores"]
    assert [phase["seconds"] for phase in again["phases"][:-1]] == [p["seconds"] for p in results["phases"][:-1]]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (["--codes", "16"], "recipe.latent.codes"),
        (["--image", "56", "56"], "recipe.image.size"),
        (["--samples", "2"], "recipe.rl.samples"),
        (["--without", "cycle"], "recipe.method.cycle"),
    ],
)
def test_another_recipe_is_refused_and_named(made, change, place, capsys):
    code, _, err = call([*made[1], *change], capsys)
    assert code == 3
    assert place in err


def test_other_rows_under_the_same_names_are_refused(made, capsys):
    file = made[0] / "text.json"
    before = file.read_text()
    file.write_text(before.replace("Say red.", "Name red."))
    try:
        code, _, err = call(made[1], capsys)
    finally:
        file.write_text(before)
    assert code == 3
    assert "content" in err


def test_a_changed_reward_is_refused_unless_it_is_allowed(made, capsys):
    folder, args, _ = made
    changed = folder / "made_score_2.py"
    changed.write_text((folder / "made_score.py").read_text() + "# corrected\n")
    other = [word.replace("made_score.py", "made_score_2.py") for word in args]
    config = folder / "run" / "config.json"
    before = config.read_text()
    code, _, err = call(other, capsys)
    assert code == 3
    assert "reward.file" in err
    # As if the file itself had been corrected: only the hash differs.
    hash_of = json.loads(before)["config"]["content"]["rewards"]["own"]
    config.write_text(before.replace(hash_of, "0" * 64))
    code, _, err = call(args, capsys)
    assert code == 3
    assert "sha256" in err
    assert call([*args, "--changed-reward"], capsys)[0] == 0
    after = json.loads(config.read_text())
    assert after["config"] == json.loads(before)["config"]
    assert len(after["changes"]) == 1
    assert "sha256" in after["changes"][0][0]
