"""The tutorial: page and notebook are one, short, and they run from a demo's folder to the end."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.notebook import as_text, notebook
from tests.docs.blocks import ROOT, blocks_of

PAGE, NOTEBOOK = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.ipynb"
MOST = 100  # lines of code


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_the_page():
    assert as_text(notebook(PAGE.read_text())) == NOTEBOOK.read_text(), (
        "run `python -m experiments.notebook docs/tutorial.md docs/tutorial.ipynb`"
    )


def test_blocks_become_cells():
    page = "# A\n\n```python\nx = 1\n```\ntext\n\n```bash\nlam-jax chat \\\n runs/a\n```\n"
    found = notebook(page)
    kinds = [(cell["cell_type"], "".join(cell["source"])) for cell in found["cells"]]
    assert kinds == [
        ("markdown", "# A"),
        ("code", "x = 1"),
        ("markdown", "text"),
        ("code", "!lam-jax chat runs/a"),
    ]
    assert len({cell["id"] for cell in found["cells"]}) == 4
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)


def test_it_has_under_100_lines_of_code_and_all_of_them_are_python():
    blocks = [block for block in blocks_of("tutorial", PAGE.read_text()) if block.language]
    assert [block.text.strip() for block in blocks] == code_cells()
    for block in blocks:
        ast.parse(block.text)
    assert sum(bool(line.strip()) for block in blocks for line in block.text.splitlines()) < MOST


@pytest.mark.docs
def test_the_notebook_runs_after_a_quick_demo_and_again(tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT)}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run(sys.executable, "-m", "lam_jax", "train", "demo", "--quick", "--task", "role_play", "--out", "runs/demo")
    script = tmp_path / "cells.py"
    cells = ",\n".join(map(repr, code_cells()))
    script.write_text(f"names = {{'__name__': '__main__'}}\nfor cell in [{cells}]:\n    exec(cell, names)\n")
    first = run(sys.executable, script.name)
    for said in ("after sft", "after rl", "what RL added", "before: ", "after: ", "difference: "):
        assert said in first, first
    assert (tmp_path / "runs" / "nell" / "shared.json").exists()
    again = run(sys.executable, script.name)
    assert "All phases are complete." in again
    assert [x for x in again.splitlines() if x.startswith("difference")] == [
        x for x in first.splitlines() if x.startswith("difference")
    ]
