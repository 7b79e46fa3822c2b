"""What the report claims follows from the numbers: verdicts, sentences, ratios and how a number is printed."""

import io
import math
from typing import Any

import pytest
from rich.console import Console

from lam_jax.report.comparison import against_token, comparisons, gain_verdict, speed_tables, standard_errors
from lam_jax.report.headlines import headlines
from lam_jax.report.names import Titles, human_name, number
from lam_jax.report.plots import code_colour
from lam_jax.report.tables import summary_tables
from tests.report import made_up_run


def _score(space: str, low: float, high: float, phase: str = "rl", temperature: float = 1.0) -> dict[str, Any]:
    mean = (low + high) / 2
    return {"task": "help", "space": space, "phase": phase, "split": "id", "temperature": temperature,
            "mean": mean, "low": low, "high": high}  # fmt: skip


def _gain(difference: float, paired_se: float) -> dict[str, Any]:
    return {"task": "role_play", "space": "latent", "before": 0.5, "after": 0.5 + difference, "difference": difference,
            "paired_se": paired_se}  # fmt: skip


@pytest.mark.parametrize(
    ("latent", "token", "verdict"),
    [
        ((0.8, 0.9), (0.5, 0.7), "latent"),
        ((0.5, 0.7), (0.8, 0.9), "token"),
        ((0.5, 0.7), (0.6, 0.9), "undecided"),
        ((0.5, 0.7), (0.7, 0.9), "undecided"),
        ((0.6, 0.65), (0.5, 0.9), "undecided"),
        ((math.nan, math.nan), (0.5, 0.9), "undecided"),
    ],
)
def test_a_space_is_ahead_only_where_the_intervals_are_apart(latent, token, verdict) -> None:
    results = {"scores": [_score("latent", *latent), _score("token", *token)]}
    (row,) = comparisons(results)
    assert row.verdict == verdict
    (sentence,) = headlines(results)
    assert ("undecided on ID" in sentence) == (verdict == "undecided")
    for space in ("latent", "token"):
        assert (f"the {space} space is ahead on ID" in sentence) == (verdict == space)


@pytest.mark.parametrize(
    ("hybrid", "verdict"), [((0.75, 0.85), "hybrid"), ((0.65, 0.85), "undecided"), ((0.5, 0.6), "undecided")]
)
def test_of_three_spaces_one_is_ahead_where_its_interval_lies_above_both_others(hybrid, verdict) -> None:
    rows = [_score("token", 0.6, 0.7), _score("latent", 0.4, 0.7), _score("hybrid", *hybrid)]
    (row,) = comparisons({"scores": rows})
    assert (row.spaces, row.verdict) == (["latent", "hybrid", "token"], verdict)
    assert row.difference("hybrid") == pytest.approx(sum(hybrid) / 2 - 0.65)
    (sentence,) = headlines({"scores": rows})
    assert f"({0.55:.3f} latent, {sum(hybrid) / 2:.3f} hybrid, {0.65:.3f} token)" in sentence
    assert against_token(row.spaces) == ["latent", "hybrid"]
    (row,) = comparisons({"scores": rows[1:]})
    assert (row.phase, row.difference("hybrid"), against_token(row.spaces)) == ("rl", None, [])


def test_rl_decides_where_both_spaces_have_it_otherwise_sft() -> None:
    sft = [_score("latent", 0.8, 0.9, "sft"), _score("token", 0.5, 0.6, "sft")]
    (row,) = comparisons({"scores": [*sft, _score("token", 0.95, 0.99)]})
    assert (row.phase, row.verdict) == ("sft", "latent")
    (row,) = comparisons({"scores": [*sft, _score("token", 0.95, 0.99), _score("latent", 0.7, 0.8)]})
    assert (row.phase, row.verdict) == ("rl", "token")
    assert row.difference("latent") == pytest.approx(0.75 - 0.97)
    (row,) = comparisons({"scores": [_score("token", 0.5, 0.6, "sft"), _score("latent", 0.8, 0.9, "rl")]})
    assert (row.phase, row.verdict, row.difference("latent")) == (None, "not compared", None)


def test_temperatures_are_compared_apart_and_temperature_one_comes_first() -> None:
    rows = [_score(space, 0.5, 0.6, temperature=t) for t in (0.1, 1.0) for space in ("latent", "token")]
    assert [row.temperature for row in comparisons({"scores": rows})] == [1.0, 0.1]


@pytest.mark.parametrize(
    ("difference", "paired_se", "verdict", "errors"),
    [
        (0.03, 0.01, "rose", 3.0),
        (0.02, 0.01, "undecided", 2.0),
        (-0.03, 0.01, "fell", -3.0),
        (0.0, 0.0, "undecided", 0.0),
        (0.1, 0.0, "rose", math.inf),
    ],
)
def test_a_gain_counts_beyond_twice_its_paired_error(difference, paired_se, verdict, errors) -> None:
    gain = _gain(difference, paired_se)
    assert gain_verdict(gain) == verdict
    assert standard_errors(gain) == pytest.approx(errors)
    (sentence,) = headlines({"gain": [gain]})
    assert (verdict if verdict != "undecided" else "undecided.") in sentence
    assert ("rose" in sentence) == (verdict == "rose")


def test_speed_ratios_are_latent_over_token_and_absent_without_either() -> None:
    rows = [{"task": "help", "space": "latent", "step_s": 3.0, "rollout_s": 1.0, "update_s": 1.0},
            {"task": "help", "space": "token", "step_s": 2.0, "rollout_s": 0.0, "update_s": None}]  # fmt: skip
    (table,) = speed_tables({"speed": rows})
    ratios = {row[0]: row[-1]["latent"] for row in table.rows if row[1] == "s"}
    assert ratios == {"Rollout": None, "Policy update": None, "Whole step": 1.5}
    assert headlines({"speed": rows}) == ["Help: a latent RL step takes 1.50 times a token RL step."]
    assert headlines({"speed": rows[:1]}) == []


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.94126, 3, "0.941"), (1523968, 0, "1,523,968"), (-0.25, 2, "−0.25"), (-0.0001, 3, "0.000"), (None, 3, "–"),
     (math.nan, 1, "–"), (math.inf, 1, "–")],
)  # fmt: skip
def test_numbers_are_printed_for_reading(value, digits, text) -> None:
    assert number(value, digits) == text


def test_phases_and_keys_read_as_words() -> None:
    titles = Titles({"help": {"title": "Personalised help"}, "mmrole": {"title": "MMRole"}})
    assert titles.phase("stage3_joint") == "Stage 3: joint"
    assert titles.phase("rl_latent_role_play") == "RL, latent: role play"
    assert titles.phase("sft_token_help") == "SFT, token: personalised help"
    assert titles.phase("sft_clone_latent_help") == "SFT, cloning, latent: personalised help"
    assert titles.phase("load_base") == "Load base"
    assert titles.phase("rl_token_mmrole") == "RL, token: MMRole"
    assert titles.split("help", "id") == "ID"
    assert human_name("") == ""


@pytest.mark.parametrize("codes", [1, 16, 32, 128])
def test_codes_have_fixed_and_different_colours(codes: int) -> None:
    colours = [code_colour(code, codes) for code in range(codes)]
    assert len(set(colours)) == codes
    assert colours == [code_colour(code, codes) for code in range(codes)]


def _printed(results: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=160)
    for table in summary_tables(results):
        console.print(table)
    return console.file.getvalue()


def test_the_terminal_summary_holds_scores_gains_speed_and_total_time() -> None:
    results = made_up_run.results()
    text = _printed(results)
    for row in results["scores"]:
        assert f"{row['mean']:.3f}" in text
        assert f"{row['low']:.3f}-{row['high']:.3f}" in text
    assert "0.047" in text
    assert "1,523,968" in text
    assert f"{sum(phase['seconds'] for phase in results['phases']):.1f}" in text


def test_terminal_markup_in_names_is_printed_as_it_stands() -> None:
    text = _printed({"phases": [{"name": "[red]x[/red]", "seconds": 1.0}]})
    assert "[red]x[/red]" in text


@pytest.mark.parametrize("spaces", [("latent", "token"), ("token",)])
def test_a_pipe_of_80_columns_has_the_label_of_every_row_and_all_numbers(spaces) -> None:
    results = made_up_run.results()
    for key in ("scores", "gain", "speed"):
        results[key] = [row for row in results[key] if row["space"] in spaces]
    for sample in results["samples"]:
        sample["answers"] = [answer for answer in sample["answers"] if answer["space"] in spaces]
    console = Console(file=io.StringIO(), width=80)
    for table in summary_tables(results):
        console.print(table)
    lines = console.file.getvalue().splitlines()
    assert not [line for line in lines if "…" in line]
    for row in results["scores"]:
        label = {"role_play": ("ID", "OOD"), "help": ("LS1", "LS2")}[row["task"]][row["split"] == "ood"]
        label = f"{label}, T {row['temperature']:g} "
        assert [line for line in lines if line.strip().startswith(label) and f" {row['mean']:.3f}" in line], label
    for heading in (f"{space.capitalize()} {phase}" for space in spaces for phase in ("SFT", "RL")):
        assert sum(heading in line for line in lines) == 2
    for gain in results["gain"]:
        errors = f"{gain['difference'] / gain['paired_se']:.1f}"
        assert [line for line in lines if f"{gain['difference']:.3f}" in line and line.rstrip().endswith(errors)]
    text = " ".join(" ".join(lines).split())
    assert "Personalised help," in text
    assert [line for line in lines if "Whole step (s)" in line and "1.023" in line]
    assert [line for line in lines if "RL, token: personalised help" in line and "98.0" in line]


def _printed_at(width: int, results: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in summary_tables(results):
        console.print(table)
    return console.file.getvalue()


def test_long_names_break_and_hide_no_number() -> None:
    name = "an own task whose name is rather long and goes on and on"
    score = _score("latent", 0.5, 0.75) | {"task": name, "split": "a split with a long name"}
    text = _printed_at(80, {"scores": [score]})
    assert "0.625" in text
    assert "0.500-0.750" in text
    assert "A SPLIT" in text


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(-0.25, 0.5, "−0.250-0.500"), (120.25, 130.75, "120.2-130.8"), (-4100.0, 2000.0, "−4,100-2,000")],
)
def test_rewards_of_any_size_fit(low, high, shown) -> None:
    scores = [_score(space, low, high, phase) for space in ("latent", "token") for phase in ("sft", "rl")]
    text = _printed_at(80, {"scores": scores})
    assert text.count(shown) == 4
    assert "…" not in text


def test_labels_stay_where_numbers_have_no_room() -> None:
    text = _printed_at(60, made_up_run.results())
    for label in ("OOD, T 0.1 ", "LS2, T 1 ", "Whole step (s) ", "RL, token: personalised help "):
        assert label in text
    assert "…" not in text
    for row in made_up_run.results()["scores"]:
        assert f"{row['mean']:.3f}" in text
