"""A conversation as a picture: `python -m experiments.chat_picture runs/demo docs/chat.svg`.

What `lam-jax chat RUN --beside token` prints in 110 columns, drawn by rich; the lines are those of `LINES`, about the
first picture of the run's tests.
"""

import dataclasses
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from lam_jax.agents.chat import Chat
from lam_jax.agents.chat_terminal import Terminal, open_agent, open_beside
from lam_jax.agents.evaluated import tests_of
from lam_jax.agents.run_folder import open_run_agent

WIDTH = 110
LINES = (
    "/image {picture}",
    "What do you see?",
    "/codes",
    "/force {code}",
    "/branch 4",
    "/clear",
    "/bias {code} 4",
    "/controls",
    "What is in the middle?",
)
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Wrapping(Console):
    """Wraps all lines itself: in a picture no terminal does."""

    def print(self, *what: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        super().print(*what, **options)


def without_fonts(svg: str) -> str:
    """The picture in fonts that are there: rich's own template loads one from elsewhere."""
    return re.sub(
        r"font-family: [^;]*;", f"font-family: {FONTS};", re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    )


def converse(run: Path, task: str, code: int, picture: bytes, lines: Sequence[str]) -> str:
    """The picture of a conversation with the latent agent of a run, its token agent beside it."""
    agent = open_agent(run, task)
    agents = {agent.space: agent, "token": open_beside(run, "token", task)}
    chats = {name: Chat(found, seed=1) for name, found in agents.items()}
    console = Wrapping(record=True, width=WIDTH, file=io.StringIO(), color_system="256", legacy_windows=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scene.png"
        file.write_bytes(picture)
        terminal = Terminal(chats, console)
        for line in lines:
            shown = line.format(picture=file.name, code=code)
            console.print(f"> {shown}", highlight=False, markup=False)
            terminal.take(line.format(picture=file, code=code))
    return without_fonts(console.export_svg(title=f"lam-jax chat {run.name} --beside token"))


@dataclasses.dataclass(frozen=True)
class Config:
    """A run with both spaces, and the file that is written."""

    run: tyro.conf.Positional[Path]
    target: tyro.conf.Positional[Path]
    task: str = "role_play"
    code: int = 13
    """That is forced and biased."""


def main(config: Config) -> None:
    """Talks and draws."""
    found = tests_of(open_run_agent(config.run, config.task, "latent"), None, 1)
    picture = found[0].examples[0].images[0]
    content = picture if isinstance(picture, bytes) else picture.read_bytes()
    svg = converse(config.run, config.task, config.code, content, LINES)
    config.target.write_text(svg, encoding="utf-8")
    print(f"Wrote {config.target}, {len(svg) / 1e3:.0f} kB")


if __name__ == "__main__":
    main(tyro.cli(Config))
