"""The page of all commands, from their own help: `python -m experiments.command_reference docs/commands.md`."""

import os
import subprocess
import sys
from pathlib import Path

from lam_jax.cli import COMMANDS
from lam_jax.cli.recipes import shipped_recipes

WIDTH = "110"
START = """# Commands

What `lam-jax COMMAND --help` prints, for version {version}. Exit codes are listed in [pods](pods.md).
"""


def help_of(words: list[str]) -> str:
    """The help of a command, without colours and boxes' colours."""
    environment = os.environ | {"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "lam_jax", *words, "--help"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def main(target: Path) -> None:
    """Writes the page."""
    from lam_jax import __version__

    calls = [[], *([name] for name in COMMANDS), *(["train", name] for name in shipped_recipes())]
    parts = [START.format(version=__version__)]
    for words in calls:
        parts.append(f"## lam-jax {' '.join(words)}".rstrip() + f"\n\n```text\n{help_of(words)}\n```\n")
    target.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
