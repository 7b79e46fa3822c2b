"""The picture game turn by turn: one move an answer, and a new picture after each.

    MazeSteps        the environment
    MazeStepRows     rows that begin games; those of stage 5 and validation show a whole one, on a shortest way
    maze_steps_task  the task

A move that brings the figure nearer is rewarded with its share of `SHAPING`, one that leads it away costs as much, and
reaching the goal gives the rest of 1: a game that is solved returns 1, another `SHAPING` times the share of the
distance that was won, below 0 where the figure ends farther away than it began. A move off the grid or into a wall, and
an answer that is anything but one move, leave the figure where it is and cost the turn.
"""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt32

from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.environments.environment import Environment, EnvironmentStep, Observation
from lam_jax.environments.first_step import FirstStepReward
from lam_jax.environments.play import begun, continued, demonstrated
from lam_jax.scenes.maze import Cell, Maze, maze_of, moved
from lam_jax.scenes.maze_moves import SHAPING, is_moves, read_moves, say_moves
from lam_jax.scenes.maze_picture import encode_maze
from lam_jax.scenes.maze_rows import SPLITS, TESTS, MazeSizes, content_hash, example_of, maze_row
from lam_jax.tasks.episodes import EpisodeTask

NAME = "maze_steps"
TURNS = 6
SEEN = "And now?"  # the user's words beside each new picture
WHOLE = ("sft", "val")  # splits whose rows show whole games
# Tokens: the longest conversation before the last of six answers, the longest demonstration, and an answer.
PROMPT_LENGTH, CHAT_LENGTH, ANSWER_LENGTH = 224, 192, 6


@dataclasses.dataclass(frozen=True)
class _Game:
    maze: Maze
    cell: Cell
    legal: int  # moves that could be made
    made: int  # answers


@dataclasses.dataclass(frozen=True)
class MazeSteps:
    """The game as an environment.

    Attributes:
        turns: most answers in a game.
    """

    turns: int = TURNS

    def reset(self, examples: Sequence[Example], seeds: UInt32[np.ndarray, " B"]) -> tuple[_Game, ...]:
        """The games of the rows' layouts; nothing in them is random.

        Raises:
            ValueError: a row is none of the game's.
        """
        mazes = [maze_of(example.facts) for example in examples]
        return tuple(_Game(maze, maze.start, 0, 0) for maze in mazes)

    def step(self, state: Sequence[_Game], answers: Sequence[str]) -> tuple[tuple[_Game, ...], EnvironmentStep]:
        """Makes one move of each game that is not over."""
        after = tuple(_after(game, answer) for game, answer in zip(state, answers, strict=True))
        rewards, done, seen = [], [], []
        parts: dict[str, list[float]] = {"solved": [], "progress": [], "shortest": [], "legal": []}
        for old, new in zip(state, after, strict=True):
            distances = new.maze.distances()
            away, solved = distances[new.maze.start], new.cell == new.maze.goal
            won = SHAPING * (distances[old.cell] - distances[new.cell]) / away
            rewards.append(won + (1 - SHAPING if solved and old.cell != new.cell else 0.0))
            done.append(solved)
            seen.append(Observation(SEEN, (encode_maze(new.maze, new.cell),)))
            parts["solved"].append(float(solved))
            parts["progress"].append(max(0.0, (away - distances[new.cell]) / away))
            parts["shortest"].append(float(solved and new.made == away))
            parts["legal"].append(new.legal / max(1, new.made))
        figures = {name: np.array(values) for name, values in parts.items()}
        return after, EnvironmentStep(seen, np.array(rewards), np.array(done), figures)


def _after(game: _Game, answer: str) -> _Game:
    if game.cell == game.maze.goal:
        return game
    moves = read_moves(answer)
    legal = moves is not None and len(moves) == 1 and game.maze.is_free(moved(game.cell, moves[0]))
    cell = moved(game.cell, moves[0]) if moves and legal else game.cell
    return dataclasses.replace(game, cell=cell, legal=game.legal + legal, made=game.made + 1)


def maze_steps_row(split: str, index: int) -> Example:
    """The layout of `maze_row` as a game: its first turn and a best move, or in `WHOLE` splits all turns.

    Raises:
        ValueError: unknown split or negative index.
    """
    row = maze_row(split, index)
    row["id"] = row["id"].replace("maze", NAME, 1)
    conversation = begun(example_of(row, split, index))
    maze = maze_of(row["facts"])
    moves = maze.shortest(random.Random(f"{NAME}/{split}/{index}"))
    cell = maze.start
    if split in WHOLE:
        for name in moves[:-1]:
            cell = moved(cell, name)
            seen = Observation(SEEN, (encode_maze(maze, cell),))
            conversation = continued(conversation, say_moves([name]), seen)
        return demonstrated(conversation, say_moves(moves[-1:]))
    return demonstrated(conversation, say_moves(moves[:1]))


@dataclasses.dataclass(frozen=True)
class MazeStepRows:
    """The rows; drawn when they are read, nothing is written.

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
        return [maze_steps_row(split, index) for index in range(self.sizes.rows[split])]

    def shrunk(self, rows: int) -> "MazeStepRows":
        """At most so many rows a split, the first ones."""
        return dataclasses.replace(self, sizes=self.sizes.shrunk(rows))

    def content(self) -> str:
        """Hash of everything that the rows depend on: sizes, the generator's code and its sprites."""
        return content_hash(dataclasses.asdict(self), __file__)


def maze_steps_task(sizes: MazeSizes | None = None) -> EpisodeTask:
    """The game turn by turn."""
    environment: Environment = MazeSteps()
    return EpisodeTask(
        NAME,
        "Maze, step by step",
        MazeStepRows(sizes or MazeSizes()),
        FirstStepReward(environment),
        chat_lengths=(CHAT_LENGTH,),
        prompt_lengths=(PROMPT_LENGTH,),
        answer_length=ANSWER_LENGTH,
        check=is_moves,
        tests=TESTS,
        environment=environment,
    )
