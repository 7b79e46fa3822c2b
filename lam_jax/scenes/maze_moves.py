"""Answers of the game: moves in words, read, walked and rewarded by simulation.

The reward of an answer is 1 if all its moves can be made and end at the goal, else `SHAPING` times the share of the
distance that they won, 0 at least: a verifiable reward with a small shaping part. A move off the grid or into a wall
ends the walk where the figure stands, and moves after the goal was reached lead away from it again. An answer that is
anything but moves gets 0.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lam_jax.data.schemas import Example
from lam_jax.rewards.reward import Verdicts
from lam_jax.rewards.verdict import Verdict
from lam_jax.scenes.maze import MOVES, Cell, Maze, maze_of, moved

SHAPING = 0.3
FILLERS = frozenset({"go", "and", "then"})
_ANSWER = re.compile(r"[A-Za-z]+(?:[,.;]?\s+[A-Za-z]+)*[.!]?")


def say_moves(moves: Sequence[str]) -> str:
    """ "Go left, up, up." """
    return f"Go {', '.join(moves)}."


def read_moves(answer: str) -> list[str] | None:
    """The moves of an answer in order; None if it is anything but words of moves, "go", "then" and "and"."""
    text = answer.strip()
    words = [word.lower() for word in re.findall(r"[A-Za-z]+", text)]
    if not _ANSWER.fullmatch(text) or any(word not in MOVES and word not in FILLERS for word in words):
        return None
    return [word for word in words if word in MOVES] or None


def is_moves(answer: str) -> bool:
    """Whether an answer is moves and nothing else."""
    return read_moves(answer) is not None


@dataclass(frozen=True)
class Walk:
    """What became of some moves.

    Attributes:
        end: where the figure stands.
        made: moves that could be made.
        blocked: a move led off the grid or into a wall; it and those behind it were not made.
    """

    end: Cell
    made: int
    blocked: bool


def walk(maze: Maze, moves: Sequence[str], start: Cell | None = None) -> Walk:
    """Makes moves one by one from `start`, by default the layout's own."""
    cell = maze.start if start is None else start
    for number, name in enumerate(moves):
        following = moved(cell, name)
        if not maze.is_free(following):
            return Walk(cell, number, True)
        cell = following
    return Walk(cell, len(moves), False)


def score_moves(maze: Maze, answer: str) -> Verdict:
    """The verdict on an answer, whose reference scores 1.

    Its parts: `solved` (the moves could be made and end at the goal), `progress` (share of the distance won, 0 at
    least), `shortest` (solved in the fewest moves), `legal` (only moves, none of them blocked).
    """
    moves = read_moves(answer)
    done = walk(maze, moves or [])
    distances = maze.distances()
    away = distances[maze.start]
    legal = moves is not None and not done.blocked
    solved = legal and done.end == maze.goal
    progress = max(0.0, (away - distances[done.end]) / away) if moves else 0.0
    parts = {
        "solved": float(solved),
        "progress": progress,
        "shortest": float(solved and done.made == away),
        "legal": float(legal),
    }
    return Verdict({"reward": (1.0 if solved else SHAPING * progress, 1.0)}, parts=parts)


@dataclass(frozen=True)
class MazeReward:
    """The game's reward, by simulation on the layout of a row's facts."""

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts [N][G]; none fails.

        Raises:
            ValueError: a row is none of the game's.
        """
        found = []
        for example, texts in zip(examples, answers, strict=True):
            maze = maze_of(example.facts)
            found.append([score_moves(maze, text) for text in texts])
        return found
