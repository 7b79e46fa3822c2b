"""Code blocks of pages: ```python and ```bash are run by `make docs`, indented ones are for reading."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In the order in which a reader meets them: later pages use the files and runs of earlier ones.
PAGES = (
    "docs/index.md",
    "docs/own_data.md",
    "docs/corpora.md",
    "docs/python.md",
    "docs/own_task.md",
    "docs/environments.md",
    "docs/judge.md",
    "docs/agents.md",
    "docs/chat.md",
    "docs/codes.md",
    "docs/evaluation.md",
    "docs/watching.md",
    "README.md",
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block, with where it begins."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in FENCE.finditer(text)]


def all_blocks() -> list[Block]:
    """Of all pages that are there."""
    return [b for page in PAGES if (ROOT / page).exists() for b in blocks_of(page, (ROOT / page).read_text())]


def commands(text: str) -> list[str]:
    """The commands of a shell text, continued lines joined, comments left out."""
    joined = text.replace("\\\n", " ")
    return [line for raw in joined.splitlines() if (line := raw.partition(" #")[0].strip())]
