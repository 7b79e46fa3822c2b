"""The page of the reproduction: made of results, and the one in docs is of those in the repository."""

import json
import subprocess
from pathlib import Path

import pytest

from experiments.reproduction_page import NOT_RUN, PAGE, RESULTS, overall, page
from tests.grid.test_tables import cell, score, write

ROOT = Path(__file__).parents[2]


def test_the_page_in_docs_is_made_of_the_results_in_the_repository():
    changed = subprocess.run(["git", "status", "--porcelain", RESULTS], cwd=ROOT, capture_output=True, text=True)
    if changed.returncode or changed.stdout:
        pytest.skip("no repository, or a grid has added results: python -m experiments.reproduction_page")
    assert (ROOT / PAGE).read_text() == "\n\n".join(page(ROOT / RESULTS)) + "\n"


def test_a_claim_has_the_comparisons_that_speak_to_it(tmp_path):
    spaces = {"token": "token", "latent": "latent", "repaired": "latent", "hybrid": "hybrid"}
    cells = [
        cell(
            f"{agent}{seed}",
            seed,
            {"seed": seed, "agent": agent, "algorithm": "grpo"},
            [score(space, phase, [0.5 + place / 10 + 0.1 * (phase == "rl")] * 4) for phase in ("sft", "rl")],
        )
        for place, (agent, space) in enumerate(spaces.items())
        for seed in range(3)
    ]
    (tmp_path / "results").mkdir()
    write(tmp_path / "results" / "reproduce", *cells, plan=[*cells, cell("other", 0, {"seed": 9}, [])])
    text = "\n\n".join(page(tmp_path / "results"))
    assert "`reproduce`: 12 of 13 cells, by commit abc1234 (cpu, jax 0.10)." in text
    first = text[text.index("## 1.") : text.index("## 2.")]
    rows = [line.split(" | ") for line in first.splitlines() if line.startswith("| Role play")]
    assert [(row[1], row[3], row[-1].strip(" |")) for row in rows] == [
        ("latent - token", "+0.100 [+0.100, +0.100]", "supported"),
        ("repaired - token", "+0.200 [+0.200, +0.200]", "supported"),
        ("hybrid - token", "+0.300 [+0.300, +0.300]", "supported"),
    ]
    assert NOT_RUN in text[text.index("## 3.") : text.index("## 4.")]


def test_that_a_part_matters_is_supported_where_the_method_without_it_is_worse(tmp_path):
    cells = [
        cell(f"{change}{seed}", seed, {"seed": seed, "change": change}, [score("latent", "rl", [value] * 4)])
        for change, value in (
            ("full", 0.6),
            ("gumbel_off", 0.7),
            ("no_cycle", 0.4),
            ("no_projector", 0.8),
            ("codes_64", 0.7),
            ("codes_128", 0.6),
        )
        for seed in range(3)
    ]
    write(tmp_path / "ablations", *cells, plan=cells)
    text = "\n\n".join(page(tmp_path))
    ends = {
        line.split(" | ")[1]: line.split(" | ")[-1].strip(" |") for line in text.splitlines() if " - full |" in line
    }
    assert ends == {
        "no_cycle - full": "supported",
        "no_projector - full": "not supported",
        "gumbel_off - full": "better",
        "codes_64 - full": "not supported",
        "codes_128 - full": "supported",
    }
    short = text[text.index("## In short") : text.index("## Learning")]
    assert "| 3. The cycle loss matters | supported | 1 supported |" in short
    assert "| 4. The projector matters | not supported | 1 not supported |" in short
    assert "| 1. Latent RL beats token RL | undecided | - |" in short
    assert "| 6. A small codebook is enough | mixed | 1 supported, 1 not supported |" in short
    assert "7. Amount" not in short


def test_one_verdict_of_several():
    assert overall([]) == overall(["undecided"]) == "undecided"
    assert overall(["supported", "undecided"]) == "supported"
    assert overall(["not supported"]) == "not supported"
    assert overall(["supported", "not supported"]) == "mixed"


def test_coverage_is_averaged_over_seeds(tmp_path):
    folder = tmp_path / "coverage"
    folder.mkdir()
    for seed, (agreement, used) in enumerate(((0.5, 20), (0.7, 30))):
        condition = {"agreement": agreement, "by_chance": 0.1, "overlap": 1.0, "perplexity": 8.0}
        condition |= {"logp": -1.0, "backbone_logp": -1.25 - seed}
        text_only = {"perplexity": 9.0, "used": used, "image_text_within": 0.75, "overlap": 0.5}
        record = {"variant": "no_cycle", "conditions": {"text form": condition}, "text_only": text_only, "codes": 32}
        (folder / f"no_cycle_{seed}.json").write_text(json.dumps(record))
    text = "\n\n".join(page(tmp_path))
    (row, used) = [line for line in text.splitlines() if line.startswith("| no_cycle")]
    assert row == (
        "| no_cycle | text form | 0.600 [0.500, 0.700] (0.100) | -1.000 [-1.000, -1.000] | 0.750 [0.250, 1.250] | "
        "8.000 [8.000, 8.000] | 2 |"
    )
    assert used.startswith("| no_cycle | 25.000 [20.000, 30.000] | 9.000")
    assert used.endswith("| 0.750 [0.750, 0.750] | 0.500 [0.500, 0.500] | 32 | 2 |")
