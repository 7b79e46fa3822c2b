"""Evaluations in a report: every number is there, lexical diversity is called so, a damaged file is named."""

import json
from pathlib import Path

import pytest

from lam_jax.report.current import is_current
from lam_jax.report.evaluations import drawn, read_evaluation
from lam_jax.report.report import write_report
from lam_jax.report.schema import RunFilesError
from tests.report import made_up_run
from tests.report.test_report import Page


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take seconds and show no evaluation."""
    monkeypatch.setattr("lam_jax.report.plots.all_plots", lambda *_: [])


TEXTS = {
    "answers": 30,
    "length": {"mean": 31.25, "p95": 57.5, "max": 80},
    "ended": 0.9375,
    "repeated_4grams": 0.015625,
    "short_answers": 2,
    "distinct_1": 0.28125,
    "distinct_2": 0.59375,
    "distinct_answers": 1.375,
}


def score(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.03125, "high": mean + 0.0625, "std": 0.00390625, "sample_means": [mean] * 3}


def entry(agent: str, **changes) -> dict:
    space = agent.rpartition("/")[2]
    return {
        "agent": agent,
        "task": "help",
        "space": space,
        "phase": f"rl_{space}_help",
        "set": "id",
        "title": "LS1: <known> role sets",
        "prompts": 10,
        "samples": 3,
        "reward": "judge big",
        "score": score(0.84375),
        "dimensions": {"contextual_awareness": score(0.90625), "flow": score(0.78125)},
        "calls": {"calls": 30, "failed": 3, "kinds": {"timeout": 2, "refused": 1}, "scored_prompts": 10},
        "texts": TEXTS,
        "diversity": None,
        "lexical_diversity": {"similarity": 0.8, "diversity": 1.25, "reciprocal_mean": 1.28125, "samples": 8, "cut": 0},
        "diversity_texts": TEXTS,
        "folder": "1/id",
        **changes,
    }


def evaluation() -> dict:
    pair = {"first": "run/help/latent", "second": "run/help/token", "second_evaluation": None, "set": "id"}
    pair |= {"title": "LS1", "test": "two-sided sign test", "prompts": 9, "unpaired": 1, "wins": 6, "ties": 2}
    pair |= {"losses": 1, "win_rate": 0.859375, "win_low": 0.421875, "win_high": 0.984375, "p_value": 0.125}
    pair |= {"difference": {"mean": 0.046875, "low": -0.015625, "high": 0.109375}}
    protocol = {"samples": 3, "temperature": 0.1, "top_k": 64, "diversity_samples": 8, "diversity_temperature": 1.0}
    return {
        "format": "lam_jax evaluation",
        "version": 1,
        "protocol": protocol | {"diversity_top_k": 32},
        "embedder": {"name": "lexical"},
        "scores": [entry("run/help/latent"), entry("run/help/token", score=None, dimensions={})],
        "comparisons": [pair],
    }


def write(folder: Path, content: dict) -> Path:
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(content))
    return folder


def numbers(value) -> set[float]:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in ("answers", "short_answers", "max", "similarity", "kinds")}
        kept = {k: v for k, v in kept.items() if k not in ("scored_prompts", "sample_means", "diversity_texts", "cut")}
        return set().union(*map(numbers, kept.values()), set())
    return {float(value)} if isinstance(value, int | float) else set()


def test_every_number_of_an_evaluation_is_in_the_run_s_report(tmp_path):
    run = made_up_run.write_run(tmp_path / "run")
    write_report(run)
    assert is_current(run)
    write(run / "evaluations" / "tests", evaluation())
    assert not is_current(run)
    page = Page(write_report(run).read_text())
    shown = page.numbers()
    first = evaluation()["scores"][0]
    expected = {k: v for k, v in first.items() if k not in ("samples", "prompts", "calls")}
    expected["dimensions"] = {k: {n: v[n] for n in ("mean", "low", "high")} for k, v in first["dimensions"].items()}
    expected["lexical_diversity"] = {k: first["lexical_diversity"][k] for k in ("diversity", "reciprocal_mean")}
    assert numbers(expected) <= shown, numbers(expected) - shown
    assert numbers(evaluation()["comparisons"][0]) <= shown
    assert "3 (2 timeout, 1 refused)" in page.text
    assert "Lexical diversity" in page.text
    assert "LS1: <known> role sets" in page.text
    assert ("a", {"href": "#evaluations"}) in page.tags


def test_diversity_by_an_embedder_is_not_called_lexical(tmp_path):
    content = evaluation() | {"embedder": {"name": "bge-m3"}}
    for one in content["scores"]:
        one["diversity"], one["lexical_diversity"] = one["lexical_diversity"], None
    text = Page(write_report(write(tmp_path / "out", content)).read_text()).text
    assert "Lexical diversity" not in text
    assert "of sentence embeddings by bge-m3" in text
    assert "lexical: of counts of words" in drawn(evaluation())


def test_the_folder_of_an_evaluation_has_a_report_of_its_own(tmp_path):
    text = Page(write_report(write(tmp_path / "out", evaluation())).read_text()).text
    assert "0.844" in text
    assert "Not in this run: learning curves" in text or "Not in this run" in text


def test_diversity_of_a_run_s_own_scores_is_called_what_it_is(tmp_path):
    run = made_up_run.write_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    for row in results["scores"]:
        row["lexical_diversity"] = row.pop("diversity")
        row["lexical_diversity_reciprocal_mean"] = row.pop("diversity_reciprocal_mean")
    (run / "results.json").write_text(json.dumps(results))
    page = Page(write_report(run).read_text())
    assert "Lexical diversity" in page.text
    assert results["scores"][0]["lexical_diversity"] in page.numbers()
    # An earlier version called every diversity so; its settings say which it was.
    for row in results["scores"]:
        row["diversity"] = row.pop("lexical_diversity")
    for embedder, title in (("hashing", True), ("BAAI/bge-m3", False)):
        results["config"]["evaluation"] = {"embedder": embedder}
        (run / "results.json").write_text(json.dumps(results))
        assert ("Lexical diversity" in Page(write_report(run).read_text()).text) == title


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(version=9), "found ('lam_jax evaluation', 9), expected format and version"),
        (lambda e: e["scores"][0].pop("texts"), "scores[0].texts: found no such key"),
        (lambda e: e["scores"][1].update(score={"mean": "high"}), "scores[1].score: found"),
        (lambda e: e["comparisons"][0].update(wins=None), "comparisons[0].wins: found None"),
    ],
)
def test_a_damaged_evaluation_is_named(tmp_path, change, message):
    content = evaluation()
    change(content)
    with pytest.raises(RunFilesError) as error:
        read_evaluation(write(tmp_path / "out", content) / "evaluation.json")
    assert message in str(error.value)
    assert "out/evaluation.json" in str(error.value)
    assert "lam-jax evaluate" in str(error.value)
