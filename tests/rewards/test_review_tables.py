"""`lam-jax reviews`: the published tables from review texts."""

import json
from pathlib import Path

import pytest

from lam_jax.cli import main
from tests.rewards.test_reviews import EXCERPT, FILES

TEXTS = {"Fluency": "good [Scores]: (9, 10)", "Tone": "good [Scores]: (4, 8)"}


def write(path: Path, rows: list) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


def row(name: str, texts: dict | None) -> dict:
    return {"id": name} | ({"rm_review": {k: {"review": t} for k, t in texts.items()}} if texts else {})


@pytest.mark.parametrize(("reviews", "results"), FILES, ids=lambda path: "-".join(path.parts[-3:]))
def test_csv_is_the_published_file_to_the_byte(capfdbinary, reviews, results):
    """Also the last digit of each mean, and the line ends."""
    assert main(["reviews", str(reviews), "--csv"]) == 0
    assert capfdbinary.readouterr().out == results.read_bytes()


def test_against_published_results(capsys, tmp_path):
    reviews, results = str(EXCERPT / "reviews.json"), EXCERPT / "results.csv"
    assert main(["reviews", reviews, "--against", str(results)]) == 0
    shown = capsys.readouterr().out
    assert "26 reviewed rows" in shown
    assert "equal to 1e-9" in shown
    other = tmp_path / "other.csv"
    header, values = results.read_text().splitlines()
    for moved, message in (
        (values.replace("26,", "25,", 1), "count: 26.0 from the texts, 25.0 published"),
        (values.replace("0.98717948", "0.98717949", 1), "Instruction Adherence: 0.98717948"),
    ):
        assert moved != values
        other.write_text(f"{header}\n{moved}\n")
        assert main(["reviews", reviews, "--against", str(other)]) == 1
        assert message in capsys.readouterr().out
    other.write_text(f"{header},More\n{values},1.0\n")
    assert main(["reviews", reviews, "--against", str(other)]) == 1
    assert "More: only in the published file" in capsys.readouterr().out


def test_rows_without_a_review_are_skipped_and_counted(capsys, tmp_path):
    """(9/10 + 4/4) / 2 and 4/8."""
    rows = [row("a", TEXTS), row("none", None), row("b", TEXTS | {"Fluency": "[Scores]: (4, 4)"})]
    file = write(tmp_path / "r.json", rows)
    assert main(["reviews", file]) == 0
    assert "2 reviewed rows, 1 without a review skipped" in capsys.readouterr().out
    assert main(["reviews", file, file, "--csv"]) == 0
    assert capsys.readouterr().out == "count,Fluency,Tone\r\n2,0.95,0.5\r\n2,0.95,0.5\r\n"


def test_dimensions_are_matched_by_name(capsys, tmp_path):
    rows = [row("a", TEXTS), row("b", {"Tone": "[Scores]: (8, 8)", "Fluency": "[Scores]: (5, 10)"})]
    assert main(["reviews", write(tmp_path / "r.json", rows), "--csv"]) == 0
    assert capsys.readouterr().out == "count,Fluency,Tone\r\n2,0.7,0.75\r\n"


def test_a_review_that_cannot_be_read_is_told(capsys, tmp_path):
    file = write(tmp_path / "r.json", [row("a", TEXTS), row("bad", TEXTS | {"Tone": "both fine"})])
    assert main(["reviews", file, "--csv"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "count,Fluency,Tone\r\n1,0.9,0.5\r\n"
    assert "row 'bad' is left out: Tone: no usable score pair" in shown.err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", None)], "found no row has a review; expected one reviewed row or more"),
        ({}, "found a dict, expected a list of reviewed rows"),
        ([row("a", TEXTS), row("b", {"Tone": TEXTS["Tone"]})], r"dimensions ['Tone'] in row 'b'"),
    ],
)
def test_other_files_are_named(capsys, tmp_path, rows, message):
    assert main(["reviews", write(tmp_path / "r.json", rows)]) == 1
    shown = capsys.readouterr().err
    assert "r.json" in shown
    assert message in shown


def test_bad_flags(capsys, tmp_path):
    assert main(["reviews", str(tmp_path / "absent.json")]) == 1
    assert "no such file" in capsys.readouterr().err
    file = write(tmp_path / "r.json", [row("a", TEXTS)])
    with pytest.raises(SystemExit, match="2"):
        main(["reviews", file, "--against", file, file])
    assert main(["reviews", file, "--against", file]) == 1
