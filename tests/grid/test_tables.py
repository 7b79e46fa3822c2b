"""Tables of made-up results: which numbers stand where, what is compared with what, and how it is shown."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from lam_jax.cli import main
from lam_jax.grid.arms import read_results
from lam_jax.grid.published import COST, DIVERSITY, SCORES
from lam_jax.grid.record import GridFilesError
from lam_jax.grid.render import csv_of, html_of, text_of
from lam_jax.grid.tables import grid_tables

METHOD = Path(__file__).parents[2] / "docs" / "method.md"
ROWS = ("a", "b", "c", "d")


def score(space, phase, values, **fields):
    """A row of scores: `values` by prompt, each answered twice, .1 above and below."""
    by_prompt = {row: [value - 0.1, value + 0.1] for row, value in zip(ROWS, values)}
    base = {"task": "role_play", "space": space, "phase": phase, "split": "id", "temperature": 0.1}
    return base | {"diversity": 1.5, "by_prompt": by_prompt} | fields


def cell(name, seed, axes, scores, **fields):
    return {
        **{"format": 1, "cell": name, "identity": f"identity of {name}", "seed": seed, "axes": axes, "phases": []},
        **{"environment": {"commit": "abc1234", "device": "cpu", "jax": "0.10"}, "algorithms": {"role_play": "grpo"}},
        **{"left_out": [], "speed": [], "scores": scores, "finished": "2026"},
        "tasks": {"role_play": {"title": "Role play", "splits": {"id": "ID: unseen"}}},
        **fields,
    }


def write(folder, *cells, plan=None):
    folder.mkdir(exist_ok=True)
    for each in cells:
        (folder / f"{each['cell']}.json").write_text(json.dumps(each))
    if plan is not None:
        listed = [{"cell": c["cell"], "identity": c["identity"], "axes": c["axes"]} for c in plan]
        (folder / "grid.json").write_text(json.dumps({"name": "made", "cells": listed}))
    return folder


@pytest.fixture
def results(tmp_path):
    """Two algorithms, two spaces, three seeds; SFT is the same for both algorithms."""
    cells = []
    for seed in range(3):
        for algorithm, gain in (("grpo", 0.1), ("dapo", 0.11)):
            for space, base in (("token", 0.4), ("latent", 0.5)):
                tuned = [base + 0.01 * seed + 0.02 * i for i in range(4)]
                # Between the spaces after RL .2 exactly; between algorithms .01.
                after = [value + gain + (0.1 if space == "latent" else 0) for value in tuned]
                scores = [score(space, "sft", tuned), score(space, "rl", after)]
                axes = {"seed": seed, "algorithm": algorithm, "spaces": space, "task": "role_play"}
                name = f"{seed}_{algorithm}_{space}"
                speed = [{"task": "role_play", "space": space, "step_s": 2.0 if space == "latent" else 1.0}]
                own = {"role_play": algorithm}
                cells.append(cell(name, seed, axes, scores, speed=speed, algorithms=own))
    return write(tmp_path / "results", *cells, plan=cells)


def test_means_are_over_seeds_and_prompts(results):
    (block,) = grid_tables(read_results(results)).blocks
    assert (block.task, block.split) == ("Role play", "ID: unseen")
    means = {tuple(mean.labels.values()): mean for mean in block.means}
    # One row for SFT, which the algorithm does not touch.
    assert set(means) == {
        *(("token", "sft"), ("latent", "sft")),
        *((algorithm, space, "rl") for algorithm in ("grpo", "dapo") for space in ("token", "latent")),
    }
    token = means["token", "sft"]
    assert token.mean == pytest.approx(0.4 + 0.01 + 0.03)
    assert token.low < token.mean < token.high
    assert (token.seeds, token.prompts, token.diversity) == (3, 4, 1.5)
    assert means["grpo", "latent", "rl"].mean == pytest.approx(0.5 + 0.01 + 0.03 + 0.2)


def test_published_figures_stand_beside_ours(results):
    (block,) = grid_tables(read_results(results)).blocks
    papers = {tuple(mean.labels.values()): mean.paper for mean in block.means}
    assert papers["grpo", "token", "rl"] == 0.838
    assert papers["grpo", "latent", "rl"] == 0.949
    assert papers["token", "sft"] == 0.843
    assert papers["dapo", "latent", "rl"] is None
    found = {(c.what, *c.labels.values()): c.paper for c in block.compared}
    assert found["space", "grpo", "rl"] == pytest.approx(0.949 - 0.838)
    assert found["phase", "grpo", "token"] == pytest.approx(0.838 - 0.843)


def test_agents_that_differ_in_one_thing_are_compared(results):
    (block,) = grid_tables(read_results(results)).blocks
    found = {(c.what, c.first, c.second, *c.labels.values()): c.found for c in block.compared}
    assert set(found) == {
        *(("algorithm", "dapo", "grpo", space, "rl") for space in ("token", "latent")),
        *(("space", "latent", "token", algorithm, "rl") for algorithm in ("grpo", "dapo")),
        ("space", "latent", "token", "sft"),
        *(("phase", "rl", "sft", a, space) for a in ("grpo", "dapo") for space in ("token", "latent")),
    }
    spaces = found["space", "latent", "token", "grpo", "rl"]
    assert (spaces.mean, spaces.low, spaces.high) == pytest.approx((0.2, 0.2, 0.2))
    assert (spaces.seeds, spaces.prompts, spaces.verdict) == (3, 4, "supported")
    assert found["algorithm", "dapo", "grpo", "token", "rl"].mean == pytest.approx(0.01)
    assert found["phase", "rl", "sft", "grpo", "latent"].mean == pytest.approx(0.2)


def test_cost_is_latent_over_token(results):
    costs = grid_tables(read_results(results)).costs
    assert [(c.task, c.labels["algorithm"], c.ratios, c.seeds) for c in costs] == [
        ("role_play", "grpo", {"step_s": 2.0}, 3),
        ("role_play", "dapo", {"step_s": 2.0}, 3),
    ]


def test_an_axis_that_says_the_space_stands_for_it(tmp_path):
    values = {"token": ("token", 0.5), "latent": ("latent", 0.6), "repaired": ("latent", 0.8)}
    cells = [
        cell(f"{agent}{seed}", seed, {"seed": seed, "agent": agent}, [score(space, "rl", [value, value + 0.1])])
        for agent, (space, value) in values.items()
        for seed in range(2)
    ]
    ((means, compared),) = [
        (b.means, b.compared) for b in grid_tables(read_results(write(tmp_path / "x", *cells, plan=cells))).blocks
    ]
    assert [mean.labels for mean in means] == [{"agent": agent, "phase": "rl"} for agent in values]
    assert [(c.first, c.second, round(c.found.mean, 6)) for c in compared] == [
        ("latent", "token", 0.1),
        ("repaired", "token", 0.3),
    ]


def test_failed_calls_and_cells_that_are_not_done(tmp_path):
    axes = {"seed": 0, "algorithm": "grpo"}
    scores = [score("token", "rl", [0.5, 0.7])]
    scores[0]["by_prompt"] = {"a": [0.5, None], "b": [None, None], "c": [0.7, 0.9]}
    one, other = cell("one", 0, axes, scores), cell("other", 1, axes | {"seed": 1}, scores)
    stray = cell("stray", 2, axes, scores)
    found = read_results(write(tmp_path / "x", one, stray, plan=[one, other]))
    assert (list(found.missing), found.others) == (["other"], 1)
    ((mean,),) = [block.means for block in grid_tables(found).blocks]
    assert (mean.mean, mean.prompts, mean.seeds) == (pytest.approx((0.5 + 0.8) / 2), 2, 1)
    text = text_of(grid_tables(found))
    assert "Not done: other (1 of 2 cells)." in text
    assert "Left out: 1 results of other grids" in text


def test_a_result_of_another_recipe_is_not_taken_for_the_cell(tmp_path):
    old = cell("one", 0, {"seed": 0}, [score("token", "rl", [0.5])])
    found = read_results(write(tmp_path / "x", old, plan=[old | {"identity": "new"}]))
    assert (found.records, list(found.missing), found.others) == ([], ["one"], 1)


def test_two_results_of_one_kind_and_seed_are_refused(tmp_path):
    scores = [score("token", "rl", [0.5])]
    folder = write(tmp_path / "x", cell("one", 0, {"seed": 0}, scores), cell("two", 0, {"seed": 0}, scores))
    with pytest.raises(GridFilesError, match="another cell has the same labels"):
        grid_tables(read_results(folder))


def test_text_fits_80_columns_and_says_what_it_is(results):
    text = text_of(grid_tables(read_results(results)))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^rl latent grpo +0\.740 +0\.\d{3} +0\.\d{3} +0\.949 +1\.500 +1\.248 +3 +4$", text, re.MULTILINE)
    assert "latent - token [rl grpo]\n    +0.200 [+0.200, +0.200], paper +0.111; resolvable 0.000, 3 seeds x 4" in text
    assert "commit abc1234, on cpu, jax 0.10" in text
    assert "whole step 2.00 (3 seeds)" in text


def test_csv_has_a_line_for_each_number(results):
    rows = list(csv.DictReader(io.StringIO(csv_of(grid_tables(read_results(results))))))
    assert [row["kind"] for row in rows] == ["mean"] * 6 + ["difference"] * 9
    assert float(rows[0]["value"]) == pytest.approx(0.44)
    assert {row["verdict"] for row in rows[6:]} <= {"supported", "not supported", "undecided"}


def test_html_escapes_what_it_is_given_and_loads_nothing(tmp_path):
    evil = "<script>alert('x')</script>"
    scores = [score("token", "rl", [0.5, 0.6], split=evil)]
    cells = [cell(f"c{i}", i, {"seed": i, "file": f"{evil}&"}, scores) for i in range(2)]
    for each in cells:
        each["tasks"] = {"role_play": {"title": evil, "splits": {}}}
        each["environment"]["commit"] = evil
    page = html_of(grid_tables(read_results(write(tmp_path / "x", *cells))))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4
    assert not re.search(r"(src|href)=", page)


def test_the_command_writes_all_three(results, tmp_path, capsys):
    files = tmp_path / "out" / "t.csv", tmp_path / "out" / "t.html"
    assert main(["table", str(results), "--csv", str(files[0]), "--html", str(files[1])]) == 0
    assert "Role play, ID: unseen, temperature 0.1" in capsys.readouterr().out
    assert files[0].read_text().startswith("kind,task,split")
    assert files[1].read_text().startswith("<!doctype html>")
    assert main(["table", str(tmp_path / "none")]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["table", str(results), "--margin", "0"])
    assert "--margin: found 0.0, expected a difference above" in capsys.readouterr().err


def test_published_figures_are_those_of_method_md():
    text = METHOD.read_text()
    section = text[text.index("## 5. Evaluation") : text.index("## 6.")]
    rows = {}
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith(("| method", "|---")):
            name, *found = [part.strip() for part in line.strip("|").split("|")]
            rows[name] = [[float(x.strip(" ()")) for x in part.split("/")] for part in found[:4]]
    names = {
        ("sft", "token", ""): ("SFT", 0),
        ("grpo", "token", ""): ("GRPO, token / latent", 0),
        ("grpo", "latent", ""): ("GRPO, token / latent", 1),
        ("dr_grpo", "token", ""): ("Dr.GRPO, token / latent", 0),
        ("dr_grpo", "latent", ""): ("Dr.GRPO, token / latent", 1),
        ("grpo", "latent", "cycle"): ("latent GRPO without cycle loss", 0),
        ("grpo", "latent", "project"): ("... without projector", 0),
        ("grpo", "latent", "text_only"): ("... without text-only data", 0),
    }
    assert {key: tuple(value[i] for value in rows[name]) for key, (name, i) in names.items()} == SCORES
    for number in (*DIVERSITY.values(), *COST.values()):
        assert f"{number:.3f}" in section or f"{number:.2f}" in section


def test_the_margin_decides_what_is_not_supported(tmp_path):
    """The algorithms differ by -.01 at most: under .02 that is ruled out, under a smaller margin it is not."""
    cells = []
    for seed in range(3):
        for algorithm, gain in (("grpo", 0.0), ("dapo", (0.0, 0.015, -0.01)[seed])):
            values = [0.4 + 0.02 * i + gain for i in range(4)]
            axes = {"seed": seed, "algorithm": algorithm}
            cells.append(cell(f"{algorithm}{seed}", seed, axes, [score("token", "rl", values)]))
    read = read_results(write(tmp_path / "x", *cells))

    def verdict(margin):
        ((found,),) = [block.compared for block in grid_tables(read, margin).blocks]
        return found.found.verdict, found.found.high

    assert [verdict(margin)[0] for margin in (0.5, 1e-4)] == ["not supported", "undecided"]
    assert 1e-4 < verdict(0.5)[1] < 0.5


def test_sft_that_an_axis_changes_keeps_its_rows(tmp_path):
    """Scores after SFT differ along the axis, so they are two arms, and compared."""
    cells = []
    for seed in range(2):
        for sft, base in (("joint", 0.4), ("learn", 0.5)):
            scores = [score("latent", "sft", [base + 0.01 * i for i in range(4)])]
            cells.append(cell(f"{sft}{seed}", seed, {"seed": seed, "method.sft": sft}, scores))
    (block,) = grid_tables(read_results(write(tmp_path / "x", *cells))).blocks
    assert {mean.labels["method.sft"]: round(mean.mean, 3) for mean in block.means} == {"joint": 0.415, "learn": 0.515}
    assert [(c.what, c.first, c.second, round(c.found.mean, 3)) for c in block.compared] == [
        ("method.sft", "learn", "joint", 0.1)
    ]


def test_the_reference_is_token_and_sft_wherever_they_stand(tmp_path):
    """A grid that begins with latent and lists scores after RL first."""
    cells = []
    for seed in range(2):
        for space, base in (("latent", 0.5), ("token", 0.4)):
            scores = [score(space, phase, [base + more] * 4) for phase, more in (("rl", 0.2), ("sft", 0.0))]
            cells.append(cell(f"{space}{seed}", seed, {"seed": seed, "spaces": space}, scores))
    (block,) = grid_tables(read_results(write(tmp_path / "x", *cells))).blocks
    found = {(c.what, c.first, c.second): round(c.found.mean, 3) for c in block.compared}
    assert found == {("space", "latent", "token"): 0.1, ("phase", "rl", "sft"): 0.2}
