"""Runs that are short of something, and files that are broken: the report says so and does not fall over."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lam_jax.report.report import write_report
from lam_jax.report.run_files import read_metrics
from lam_jax.report.schema import RunFilesError
from lam_jax.report.tables import summary_tables
from tests.report import made_up_run
from tests.report.test_report import Page

SECTIONS = {
    "scores": "scores on the test splits",
    "gain": "RL gains",
    "speed": "timings of RL steps",
    "base": "scores of the base model",
    "latent": "code usage",
    "fluency": "the fluency check",
    "samples": "sample conversations",
    "reach": "the reach of the codes",
    "phases": "seconds per phase",
    "config": "the configuration",
    "environment": "the environment",
}


def _report(folder: Path, results: dict[str, Any], lines: list[dict] | None = None) -> str:
    return Page(write_report(made_up_run.write_run(folder, results, lines or [])).read_text(encoding="utf-8")).text


def _terminal(results: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=80)
    for table in summary_tables(results):
        console.print(table)
    return console.file.getvalue()


def _only(results: dict[str, Any], **wanted: str) -> dict[str, Any]:
    for key in ("scores", "gain", "speed"):
        results[key] = [row for row in results[key] if all(row[name] == value for name, value in wanted.items())]
    return results


@pytest.mark.parametrize("key", SECTIONS)
def test_a_missing_section_is_named_and_only_that_one(tmp_path: Path, key: str) -> None:
    results = made_up_run.results()
    del results[key]
    results["scores"] = results["scores"][:1] if key != "scores" else []
    text = _report(tmp_path, results)
    assert f"Not in this run: {SECTIONS[key]}" in text
    assert [other for other in SECTIONS if f"Not in this run: {SECTIONS[other]}" in text] == [key]


def test_an_empty_run_renders_with_every_section_absent(tmp_path: Path) -> None:
    folder = made_up_run.write_run(tmp_path, {})
    (folder / "metrics.jsonl").unlink()
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert all(f"Not in this run: {absent}" in text for absent in SECTIONS.values())
    assert "Not in this run: logged RL steps" in text
    assert "Not in this run: logged losses" in text
    assert list((folder / "plots").iterdir()) == []
    assert summary_tables({}) == []


def test_null_sections_read_like_missing_ones(tmp_path: Path) -> None:
    text = _report(tmp_path, dict.fromkeys(SECTIONS))
    assert all(f"Not in this run: {absent}" in text for absent in SECTIONS.values())


def test_a_run_of_one_space_one_task_and_one_split_shows_no_other(tmp_path: Path) -> None:
    """An own task: no measure of the backbone, no check of fluency, no text-only rows."""
    results = _only(made_up_run.results(), space="latent", task="help")
    results["scores"] = [row for row in results["scores"] if row["split"] == "id"]
    results["rl"] = [row for row in results["rl"] if (row["space"], row["task"]) == ("latent", "help")]
    results["tasks"] = {"help": {"title": "Colours", "splits": {"id": "Held out"}}}
    results["samples"] = [s for s in results["samples"] if (s["task"], s["split"]) == ("help", "id")]
    for sample in results["samples"]:
        sample["answers"] = [answer for answer in sample["answers"] if answer["space"] == "latent"]
    results |= {"base": None, "fluency": None, "phases": [{"name": "rl_latent_help", "seconds": 2.0}]}
    results["latent"] = {key: value for key, value in results["latent"].items() if "text_only" not in key}
    results["reach"] = [row for row in results["reach"] if row["rows"] in ("paired", "help")]
    results["reach_scores"] = [
        row for row in results["reach_scores"] if (row["task"], row["space"]) == ("help", "latent")
    ]
    results["config"]["name"] = "own"
    lines = [line for line in made_up_run.metrics() if line["phase"] == "rl_latent_help"]
    text = _report(tmp_path, results, lines)
    after = {row["phase"]: f"{row['mean']:.3f}" for row in results["scores"] if row["temperature"] == 1.0}
    assert (
        f"Colours at temperature 1, latent space: {after['sft']} after SFT and {after['rl']} after RL on Held out."
        in text
    )
    assert "recipe own" in text
    for other in ("Token", "token space", "ahead", "Ahead", "not compared", "Text-only", "OOD", "Role play"):
        assert other not in text, other
    absent = {"scores of the base model", "the fluency check", "logged losses", "logged codebook health"}
    assert set(re.findall(r"Not in this run: ([^.]*)\.", text)) == absent
    printed = _terminal(results)
    assert "Held out, T 1" in printed
    assert "Token" not in printed
    assert (tmp_path / "plots" / "rl_help_reward.png").is_file()


def test_a_run_of_three_spaces_shows_the_hybrid_one_beside_the_others(tmp_path: Path) -> None:
    results = made_up_run.results()
    for key in ("scores", "gain", "speed", "rl"):
        results[key] += [row | {"space": "hybrid"} for row in results[key] if row["space"] == "latent"]
    for sample in results["samples"]:
        sample["answers"] += [a | {"space": "hybrid"} for a in sample["answers"] if a["space"] == "latent"]
    lines = made_up_run.metrics()
    lines += [
        row | {"phase": row["phase"].replace("latent", "hybrid"), "code_entropy": 1.0, "emission_entropy": 2.0}
        for row in lines
        if row["phase"].startswith("rl_latent")
    ]
    text = _report(tmp_path, results, lines)
    for part in ("Scores: latent against hybrid against token", "Hybrid − token", "Hybrid / token", "Hybrid, RL"):
        assert part in text, part
    assert (tmp_path / "plots" / "rl_help_code_entropy.png").is_file()
    assert (tmp_path / "plots" / "rl_help_emission_entropy.png").is_file()
    printed = _terminal(results)
    assert "Hybrid" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_an_answer_that_only_some_conversations_have_is_named_absent(tmp_path: Path) -> None:
    results = made_up_run.results()
    results["samples"][1]["answers"] = [a for a in results["samples"][1]["answers"] if a["space"] == "latent"]
    text = _report(tmp_path, results, made_up_run.metrics())
    assert text.count("Not in this run: an answer from the token space") == 1
    assert "an answer from the latent space" not in text


def test_spaces_without_a_common_phase_are_not_compared(tmp_path: Path) -> None:
    results = made_up_run.results()
    results["scores"] = [
        r for r in results["scores"] if (r["space"], r["phase"]) in (("latent", "sft"), ("token", "rl"))
    ]
    text = _report(tmp_path, results)
    assert "nothing to compare, no phase was scored in both spaces" in text
    assert "not compared" in text
    assert "is ahead" not in text


def test_one_task_alone_leaves_the_other_out(tmp_path: Path) -> None:
    results = _only(made_up_run.results(), task="help")
    results["samples"] = [sample for sample in results["samples"] if sample["task"] == "help"]
    results["phases"] = []
    results["reach"], results["reach_scores"] = (
        [row for row in results["reach"] if row["rows"] != "role_play"],
        [row for row in results["reach_scores"] if row["task"] == "help"],
    )
    text = _report(tmp_path, results)
    assert "Personalised help" in text
    assert "Role play" not in text


def test_interrupted_rl_compares_after_sft_and_says_so(tmp_path: Path) -> None:
    results = made_up_run.results()
    results["scores"] = [row for row in results["scores"] if row["phase"] == "sft" or row["space"] == "latent"]
    results["gain"] = [row for row in results["gain"] if row["space"] == "latent"]
    text = _report(tmp_path, results)
    assert "after SFT: the latent space is ahead on ID" in text
    assert "after RL: " not in text


def test_a_picture_that_is_gone_is_named_missing_and_text_rows_have_none(tmp_path: Path) -> None:
    results = made_up_run.results()
    results["samples"] = results["samples"][:2]
    results["samples"][0]["image"] = "samples/gone.png"
    results["samples"][1]["image"] = None
    text = _report(tmp_path, results)
    assert text.count("picture file missing") == 1
    assert text.count("no picture") == 1


def test_values_that_are_null_or_not_finite_are_dashes(tmp_path: Path) -> None:
    results = _only(made_up_run.results(), task="help", space="latent")
    results["scores"] = results["scores"][:1]
    results["scores"][0] |= {"diversity": None, "length": float("nan")}
    results["speed"][0]["rollout_s"] = None
    results["base"] = {"loss": float("inf")}
    text = _report(tmp_path, results)
    assert "nan" not in text.lower().split()
    assert "Loss –" in text
    assert "Rollout (s) – – –" in text


@pytest.mark.parametrize(
    ("change", "where", "found", "expected"),
    [
        (lambda r: r["scores"][3].update(mean="0.9"), "scores[3].mean", "'0.9' (str)", "a number"),
        (lambda r: r["scores"][0].pop("low"), "scores[0].low", "no such key", "a number"),
        (lambda r: r["scores"][0].update(space="words"), "scores[0].space", "'words'", "'latent', 'hybrid', 'token'"),
        (
            lambda r: r["scores"][1]["dimensions"]["fluency"].pop("high"),
            "scores[1].dimensions",
            "{",
            "{mean, low, high}",
        ),
        (lambda r: r["gain"][2].update(paired_se=True), "gain[2].paired_se", "True (bool)", "a number"),
        (lambda r: r.update(phases={}), "phases", "{} (dict)", "a list"),
        (lambda r: r["phases"].append("rl"), "phases[13]", "'rl' (str)", "an object"),
        (lambda r: r["latent"].update(usage=[0.5, "x"]), "latent.usage", "[0.5, 'x']", "a list of numbers"),
        (lambda r: r["base"].update(loss=[]), "base", "{", "an object of numbers"),
        (lambda r: r["fluency"].update(samples="text"), "fluency.samples", "'text' (str)", "a list of strings"),
        (lambda r: r["samples"][0]["answers"][0]["actions"].pop(), "samples[0].answers[0].actions", "21", "22 tokens"),
        (lambda r: r["rl"][1]["flops"].pop(), "rl[1].flops", "39 numbers", "one for each of the 40 steps"),
        (
            lambda r: r["samples"][2]["answers"][0].update(phase="ppo"),
            "samples[2].answers[0].phase",
            "'ppo'",
            "'sft', 'rl'",
        ),
        (lambda r: r["samples"][1]["prompt"][0].pop("role"), "samples[1].prompt[0].role", "no such key", "a string"),
        (lambda r: r["samples"][0].update(image="../x.png"), "samples[0].image", "'../x.png'", "inside the run folder"),
    ],
)
def test_a_wrong_value_names_file_key_found_and_expected(tmp_path, change, where, found, expected) -> None:
    results = made_up_run.results()
    change(results)
    with pytest.raises(RunFilesError) as caught:
        _report(tmp_path, results)
    message = str(caught.value)
    assert str(tmp_path / "results.json") in message
    assert f"{where}: found" in message
    found_text, expected_text = message.split("found ", 1)[1].split("expected ", 1)
    assert found in found_text
    assert expected in expected_text
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1"),
        (b'{"scores": [', "line 1"),
        (b"[]", "expected an object"),
        (b'{"a": "\xff"}', r"byte 7: found b'\\xff', expected UTF-8"),
    ],
)
def test_a_results_file_that_is_cut_off_or_damaged_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(RunFilesError, match=words) as caught:
        write_report(tmp_path)
    assert str(tmp_path / "results.json") in str(caught.value)


def test_a_folder_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunFilesError, match=r"results\.json: no such file.*run the command or script"):
        write_report(tmp_path)


def test_a_picture_that_is_no_png_is_not_embedded(tmp_path: Path) -> None:
    folder = made_up_run.write_run(tmp_path, lines=[])
    (folder / "samples" / "help.png").write_text("secret")
    with pytest.raises(RunFilesError, match=r"help\.png.*no PNG"):
        write_report(folder)


def test_steps_logged_twice_count_once_and_come_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [("b", 0, 5.0), ("a", 0, 1.0), ("a", 1, 2.0), ("a", 2, 3.0), ("a", 1, 20.0), ("a", 3, 4.0)]
    path.write_text("".join(json.dumps({"phase": p, "step": s, "loss": v}) + "\n" for p, s, v in lines))
    metrics = read_metrics(path)
    assert list(metrics) == ["b", "a"]
    assert [(row["step"], row["loss"]) for row in metrics["a"]] == [(0, 1.0), (1, 20.0), (2, 3.0), (3, 4.0)]


def test_a_last_line_cut_off_by_a_kill_is_dropped_but_a_broken_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = json.dumps({"phase": "stage1_inverse", "step": 0, "loss": 1.0})
    path.write_text(f'{good}\n{{"phase": "stage1_in')
    assert [row["loss"] for row in read_metrics(path)["stage1_inverse"]] == [1.0]
    path.write_text(f'{good}\n{{"phase": "stage1_in\n{good}\n')
    with pytest.raises(RunFilesError, match=r"metrics\.jsonl: line 2"):
        read_metrics(path)
    path.write_bytes(f"{good}\n".encode() + b"\xff\x00\n" + f"{good}\n".encode())
    with pytest.raises(RunFilesError, match=r"metrics\.jsonl: line 2: found .*xff.*Delete that line"):
        read_metrics(path)
    path.write_text(f'{good}\n{{"phase": "stage1_inverse"}}\n{good}\n')
    with pytest.raises(RunFilesError, match=r"line 2.*'step'"):
        read_metrics(path)
