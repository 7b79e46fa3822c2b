"""A page as a notebook: `python -m experiments.notebook docs/tutorial.md docs/tutorial.ipynb`.

Its text becomes Markdown cells, each block of Python a code cell, and each of bash one whose commands begin with
"!". The page is the source; `tests/docs/test_tutorial.py` says where the notebook is older.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import tyro

FENCE = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def notebook(page: str) -> dict[str, Any]:
    """The notebook of a page, format 4.5, as JSON values, without outputs."""
    cells, end = [], 0
    for block in FENCE.finditer(page):
        cells.append(_cell("markdown", page[end : block.start()]))
        text = block[2] if block[1] == "python" else "".join(f"!{line}\n" for line in _commands(block[2]))
        cells.append(_cell("code", text))
        end = block.end()
    cells.append(_cell("markdown", page[end:]))
    cells = [cell for cell in cells if cell["source"]]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _commands(text: str) -> list[str]:
    return [line for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines() if line.strip()]


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": "", "metadata": {}, "source": text.strip().splitlines(True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def as_text(found: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


@dataclasses.dataclass(frozen=True)
class Config:
    """A page and the notebook that is written."""

    page: tyro.conf.Positional[Path]
    target: tyro.conf.Positional[Path]


if __name__ == "__main__":
    config = tyro.cli(Config)
    config.target.write_text(as_text(notebook(config.page.read_text(encoding="utf-8"))), encoding="utf-8")
