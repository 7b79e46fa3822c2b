"""Rows of the game: each a pure function of (split, index); its source and its task.

The answers of all splits are shortest ways, one of the shortest where there are several. Layouts of a split: `SPLITS`.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.scenes import maze, maze_moves, maze_picture
from lam_jax.scenes.compose import ASSETS
from lam_jax.scenes.maze import draw_maze
from lam_jax.scenes.maze_moves import MazeReward, is_moves, say_moves
from lam_jax.scenes.maze_picture import encode_maze
from lam_jax.tasks.task import ScoredSplit, Task

NAME = "maze"
# Split -> which layouts it is drawn from.
SPLITS = {
    "sft": "train",
    "rl": "train",
    "val": "val",
    "id_test": "id",
    "ood_size": "size",
    "ood_density": "density",
    "ood_position": "position",
}
REQUESTS = ("Lead the {} to the {}.", "Bring the {} to the {}.", "Show the {} the way to the {}.")
PROMPT_LENGTH, CHAT_LENGTH = 64, 88  # tokens: the longest prompt and row, rounded up
ANSWER_LENGTH = 24
Row = dict[str, Any]


def maze_row(split: str, index: int) -> Row:
    """A row in the layout of pre-training rows: one picture, one request, the moves of a shortest way.

    Raises:
        ValueError: unknown split or negative index.
    """
    if split not in SPLITS:
        raise ValueError(f"maze: unknown split {split!r}; expected one of {tuple(SPLITS)}. Correct the split's name.")
    if index < 0:
        raise ValueError(f"maze: found index {index} of split {split!r}; expected 0 or more. Correct the index.")
    rng = random.Random(f"maze/{split}/{index}")
    drawn = draw_maze(rng, SPLITS[split])
    request = rng.choice(REQUESTS).format(drawn.figure, drawn.target)
    return {
        "id": f"maze_{split}-{index}",
        "images": [encode_maze(drawn)],
        "messages": [
            {"role": "user", "content": request},
            {"role": "assistant", "content": say_moves(drawn.shortest(rng))},
        ],
        "facts": drawn.facts(),
    }


@dataclasses.dataclass(frozen=True)
class MazeSizes:
    """Rows of each split."""

    rows: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {
            "sft": 6_000,
            "rl": 600,
            "val": 32,
            "id_test": 96,
            "ood_size": 96,
            "ood_density": 96,
            "ood_position": 96,
        }
    )

    def __post_init__(self):
        if set(self.rows) != set(SPLITS):
            raise ValueError(f"MazeSizes.rows must hold the splits {sorted(SPLITS)}, got {sorted(self.rows)}.")
        for split, size in self.rows.items():
            if size < 1:
                raise ValueError(f"MazeSizes.rows[{split!r}] must be at least 1, got {size}.")

    def shrunk(self, rows: int) -> "MazeSizes":
        """At most so many rows a split."""
        return MazeSizes({split: min(size, rows) for split, size in self.rows.items()})


@dataclasses.dataclass(frozen=True)
class MazeRows:
    """The game's rows; they are drawn when they are read, nothing is written.

    Attributes:
        sizes: of all splits.
    """

    sizes: MazeSizes = dataclasses.field(default_factory=MazeSizes)

    def prepare(self, folder: Path) -> None:
        """Nothing: rows are functions of their numbers."""

    def read(self, folder: Path, split: str) -> list[Example]:
        """The examples of a split.

        Raises:
            DataError: no such split.
        """
        if split not in SPLITS:
            raise DataError(Where(NAME), None, f"no split {split!r}", f"one of {list(SPLITS)}", "Correct the name.")
        return [example_of(maze_row(split, index), split, index) for index in range(self.sizes.rows[split])]

    def shrunk(self, rows: int) -> "MazeRows":
        """At most so many rows a split, the first ones."""
        return dataclasses.replace(self, sizes=self.sizes.shrunk(rows))

    def content(self) -> str:
        """Hash of everything that the rows depend on: sizes, the generator's code and its sprites."""
        return content_hash(dataclasses.asdict(self), __file__)


def example_of(row: Row, split: str, index: int) -> Example:
    """A row as an example."""
    where = Where(f"{NAME}/{split}", index)
    return Example(row["id"], tuple(row["messages"]), tuple(row["images"]), row["facts"], where)


def content_hash(sizes: Any, *files: str) -> str:
    """Hash of JSON values and of the files that make the game's rows, `files` besides."""
    digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
    modules = [module.__file__ for module in (maze, maze_moves, maze_picture)]
    for path in [*modules, *files, *sorted(map(str, (ASSETS).glob("*.[jp]*")))]:
        digest.update(Path(path).name.encode() + Path(path).read_bytes())
    return digest.hexdigest()[:12]


TESTS = {
    "id": ScoredSplit("id_test", "ID: unseen layouts"),
    "ood_size": ScoredSplit("ood_size", "OOD: other sizes"),
    "ood_density": ScoredSplit("ood_density", "OOD: more walls"),
    "ood_position": ScoredSplit("ood_position", "OOD: new starts and goals"),
}


def maze_task(sizes: MazeSizes | None = None) -> Task:
    """The game in one answer: all moves at once, from the picture of the layout."""
    return Task(
        NAME,
        "Maze",
        MazeRows(sizes or MazeSizes()),
        MazeReward(),
        chat_lengths=(CHAT_LENGTH,),
        prompt_lengths=(PROMPT_LENGTH,),
        answer_length=ANSWER_LENGTH,
        check=is_moves,
        tests=TESTS,
    )
