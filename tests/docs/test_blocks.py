"""What pages tell to type works: blocks are valid, and `make docs` runs them all in one folder."""

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lam_jax.cli.train import parse
from tests.docs.blocks import ROOT, Block, all_blocks, blocks_of, commands

BLOCKS = all_blocks()
RUNNABLE = [block for block in BLOCKS if block.language in ("python", "bash")]


def test_the_parser_sees_blocks_and_their_lines():
    found = blocks_of("p", "a\n```bash\nx \\\n  y  # z\n```\n\n```\nplain\n```\n")
    assert found == [Block("p", 2, "bash", "x \\\n  y  # z\n"), Block("p", 7, "", "plain\n")]
    assert commands(found[0].text) == ["x    y"]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_are_valid(block: Block):
    assert block.language in ("python", "bash", "")
    if block.language == "python":
        ast.parse(block.text)
    for command in commands(block.text) if block.language == "bash" else ():
        words = shlex.split(command.rpartition(" | ")[2])  # what is piped into it is its input
        assert words[0] in ("lam-jax", "python"), f"{block}: a command that is not tried: {command}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("docs")


def run(block: Block, folder: Path) -> subprocess.CompletedProcess:
    # As a user has it: without the eight devices of the tests.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if block.language == "bash":
        command = ["bash", "-ec", block.text]
    else:
        script = folder / f"block_{Path(block.page).stem}_{block.line}.py"
        script.write_text(block.text)
        command = [sys.executable, script.name]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.docs
@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_blocks_run(block: Block, folder: Path):
    done = run(block, folder)
    assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_a_recipe_of_the_pages_is_parsed():
    """Also without `make docs`: flags that pages show exist."""
    shown = [shlex.split(c) for b in BLOCKS if b.language == "bash" for c in commands(b.text)]
    own = [words[2:] for words in shown if words[:2] == ["lam-jax", "train"] and words[2] == "own"]
    assert own
    for name, *flags in own:
        kept = [w if not w.split("=")[0].endswith((":score", ":brief", ":polite")) else "similarity" for w in flags]
        parse(name, [w for i, w in enumerate(kept) if i == 0 or (w, kept[i - 1]) != ("similarity", "similarity")])


def test_root_is_the_repository():
    assert (ROOT / "mkdocs.yml").is_file()
