import csv
import json
import os
from pathlib import Path

import pytest

from lam_jax.evaluation.scoring import Scored, summarise
from lam_jax.rewards.reviews import parse_pairs, read_reviews

EXCERPT = Path(__file__).parent / "mmrole_excerpt"
SHARED = Path(os.environ.get("LAM_JAX_MMROLE", Path(__file__).parents[3] / "shared" / "mmrole")) / "eval"
# the committed excerpt always, and the whole material where it lies next to the repository
FILES = [(EXCERPT / "reviews.json", EXCERPT / "results.csv")] + [
    (path, Path(str(path).replace("_reviews", "_results")).with_suffix(".csv"))
    for path in sorted(SHARED.glob("*_reviews/*/*.json"))
]


@pytest.mark.parametrize(("reviews", "results"), FILES, ids=lambda path: "-".join(path.parts[-3:]))
def test_review_texts_reproduce_the_published_means(reviews: Path, results: Path):
    with results.open(newline="") as file:
        published = next(csv.DictReader(file))
    count = int(published.pop("count"))
    summary = summarise([Scored(row, 0, verdict) for row, verdict in read_reviews(reviews)])
    assert (summary.prompts, summary.failed) == (count, 0)
    assert {name: estimate.mean for name, estimate in summary.dimensions.items()} == pytest.approx(
        {name: float(value) for name, value in published.items()}, abs=1e-9
    )


@pytest.mark.parametrize(
    "text",
    [
        "Good. [Scores]: (9, 8)",
        "Good. [Scores]: 9, 8",
        "Good. **[Scores]**: (9, 8)",
        "Good. **[Scores]: (9.0, 8.0)**",
        "Good. [Scores]:\n\n(9, 8)\n",
        "Good. [Scores]: (Model A: 9, Model B: 8)",
        "Good. [Scores]: (Model 1: 9, Model 2: 8)",
        "Good. [Scores]: (9/10, 8/10)",
        "Good. [Scores: (9, 8)]",
        "Good. [Score] (9,8). Both 10 times better than 5.",
        "Good. [Scores]：（9，8）",
        "Good. [Scores]: 9, 8.",
        "Good. [Scores]: [9, 8]",
        "Good. [Scores]: (9 out of 10, 8 out of 10)",
    ],
)
def test_formats_of_a_pair(text):
    assert parse_pairs(text) == [(9, 8)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "no scores", "(9, 8)", "[Scores]:", "[Scores]: (9)", "[Scores]: (9, 8, 7)"),
        *("[Scores]: (9, 1", "[Scores]: (9,\n1)", "[Scores]: (7-8, 6-7)", "[Scores]: (Model 1 - 8, Model 2 - 9)"),
        *("[Scores]: (4 of 5, 5 of 5)", "[Scores]: (8,5 ; 7)", "[Scores]: (80%, 70%)", "[Scores]: 9, 8, or less"),
        *("[Scores]: (-9, 8)", "[Scores]: Model A is 9, Model B is 8"),
    ],
)
def test_texts_without_a_pair(text):
    assert parse_pairs(text) == []


def test_rows_without_a_usable_review_are_failed_calls(tmp_path):
    def row(name, text):
        return {"id": name, "rm_review": {"Fluency": {"review": text}}}

    path = tmp_path / "reviews.json"
    rows = [{"id": "none"}, row("zero", "[Scores]: (5, 0)"), row("prose", "both good"), row("bare", "see (3, 4)")]
    rows += [row("draft", "[Scores]: (3, 9) or rather [Scores]: (9, 1"), row("cut", "see (3, 4). [Scores]: (9, 1")]
    rows += [row("two", "(3, 4) or (4, 4)"), row("above", "[Scores]: (99, 8)"), row("null", None), row("number", 7)]
    rows += [{"id": "list", "rm_review": ["x"]}, {"id": "text", "rm_review": "[Scores]: (3, 4)"}]
    rows += [{"id": "flat", "rm_review": {"Fluency": "[Scores]: (3, 4)"}}]
    path.write_text(json.dumps(rows), encoding="utf-8-sig")
    verdicts = dict(read_reviews(path))
    assert {name for name, verdict in verdicts.items() if verdict.ok} == {"bare"}
    assert len(verdicts) == len(rows)
    assert verdicts["bare"].mean_ratio == 0.75


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "expected a list"), ("[" * 99999, "no JSON"), ("[", "no JSON"), ("[{}]", "row 0 without a key 'id'")],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "reviews.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_reviews(path)
