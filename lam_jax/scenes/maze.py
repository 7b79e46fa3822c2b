"""The picture game's layouts: a figure, a goal and walls on a grid; the shortest way by breadth-first search.

A layout is drawn from a random generator. What a split may hold is a property of the layout (`KINDS`), so that test
layouts are not in training whatever the number of rows:

    "train", "val", "id"   known sizes, few walls, known pairs of start and goal; told apart by a hash of the layout
    "size"                 grids of a size that training never has
    "density"              known sizes with more walls than training ever has
    "position"             known sizes with pairs of start and goal that training never has

Cells are (row, column), row 0 at the top.
"""

import random
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = tuple[int, int]
# In the order in which ways are looked for.
MOVES: dict[str, Cell] = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SIZES: tuple[Cell, ...] = ((2, 3), (3, 3), (3, 4))  # rows, columns
OTHER_SIZES: tuple[Cell, ...] = ((2, 4), (4, 3), (4, 4))
WALL_SHARE = (0.0, 0.25)  # of the cells
MORE_WALLS = (0.3, 0.5)
FIGURES = ("cat", "dog", "fox", "lion", "frog", "panda", "owl", "turtle")
TARGETS = ("car", "bus", "boat", "tractor", "apple", "lemon", "pizza", "crown")
KINDS = ("train", "val", "id", "size", "density", "position")
# Of the hash modulo 10: which layouts of the kinds that look alike belong to which.
_HASHED = {"train": range(7), "val": range(7, 8), "id": range(8, 10)}
# Moves of the shortest way, the same in all kinds, so that scores can be compared.
_MOVES, _WEIGHTS = (1, 2, 3, 4, 5), (20, 30, 25, 15, 10)
_TRIES = 100_000


@dataclass(frozen=True)
class Maze:
    """A layout.

    Attributes:
        rows, columns: of the grid.
        walls: cells that cannot be entered.
        start, goal: cells of the figure and of what it is led to.
        figure, target: names of the two.
    """

    rows: int
    columns: int
    walls: frozenset[Cell]
    start: Cell
    goal: Cell
    figure: str
    target: str

    def is_free(self, cell: Cell) -> bool:
        """Whether a cell lies on the grid and is no wall."""
        return 0 <= cell[0] < self.rows and 0 <= cell[1] < self.columns and cell not in self.walls

    def distances(self) -> dict[Cell, int]:
        """Fewest moves to the goal from every cell that it can be reached from."""
        found, waiting = {self.goal: 0}, deque([self.goal])
        while waiting:
            cell = waiting.popleft()
            for step in MOVES.values():
                near = (cell[0] + step[0], cell[1] + step[1])
                if self.is_free(near) and near not in found:
                    found[near] = found[cell] + 1
                    waiting.append(near)
        return found

    def best_moves(self, cell: Cell) -> list[str]:
        """Names of the moves that begin a shortest way from a cell to the goal; none at the goal or cut off from it."""
        distances = self.distances()
        here = distances.get(cell, 0)
        return [name for name in MOVES if here and distances.get(moved(cell, name), here) < here]

    def shortest(self, rng: random.Random | None = None) -> list[str]:
        """Names of the moves of a shortest way from start to goal; `rng` chooses among several, else the first."""
        cell, moves = self.start, []
        while best := self.best_moves(cell):
            name = best[0] if rng is None else rng.choice(best)
            cell = moved(cell, name)
            moves.append(name)
        return moves

    def facts(self) -> dict[str, Any]:
        """JSON values of the layout, which `maze_of` reads."""
        return {
            "task": "maze",
            "rows": self.rows,
            "columns": self.columns,
            "walls": [list(cell) for cell in sorted(self.walls)],
            "start": list(self.start),
            "goal": list(self.goal),
            "figure": self.figure,
            "target": self.target,
        }


def moved(cell: Cell, name: str) -> Cell:
    """The cell beside a cell, on the grid or not."""
    step = MOVES[name]
    return cell[0] + step[0], cell[1] + step[1]


def maze_of(facts: Mapping[str, Any] | None) -> Maze:
    """The layout of a row's facts.

    Raises:
        ValueError: they are no facts of the game.
    """
    if not facts or facts.get("task") != "maze":
        found = f"facts of task {facts.get('task')!r}" if facts else "no facts"
        raise ValueError(f"maze: found {found}, expected those of a row of the game. Use its own rows and reward.")
    try:
        start, goal = ((int(facts[key][0]), int(facts[key][1])) for key in ("start", "goal"))
        walls = frozenset((int(row), int(column)) for row, column in facts["walls"])
        maze = Maze(facts["rows"], facts["columns"], walls, start, goal, facts["figure"], facts["target"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"maze: found facts that are no layout ({type(error).__name__}: {error}).") from error
    if not (maze.is_free(start) and maze.is_free(goal) and start in maze.distances()):
        raise ValueError(f"maze: found a layout with no way from {start} to {goal}; expected one. Correct the facts.")
    return maze


def kind_of(maze: Maze) -> str | None:
    """Which of `KINDS` a layout belongs to; None: to none."""
    cells = maze.rows * maze.columns
    share, known = len(maze.walls) / cells, (maze.rows, maze.columns) in SIZES
    few, many = (low <= share <= high for low, high in (WALL_SHARE, MORE_WALLS))
    if not known:
        return "size" if few and (maze.rows, maze.columns) in OTHER_SIZES else None
    if is_held_out_pair(maze):
        return "position" if few else None
    if many:
        return "density"
    if not few:
        return None
    layout = (maze.rows, maze.columns, maze.start, maze.goal, sorted(maze.walls))
    number = zlib.crc32(repr(layout).encode()) % 10
    return next(kind for kind, numbers in _HASHED.items() if number in numbers)


def is_held_out_pair(maze: Maze) -> bool:
    """Whether start and goal are a pair of cells that training never has: one in five."""
    start, goal = (cell[0] * maze.columns + cell[1] for cell in (maze.start, maze.goal))
    return (start * 3 + goal) % 5 == 0


def draw_maze(rng: random.Random, kind: str = "train", moves: int | None = None) -> Maze:
    """A random layout of a kind.

    Args:
        rng: of the draws.
        kind: one of `KINDS`.
        moves: of the shortest way; None: drawn too, 1 to 5.

    Raises:
        ValueError: an unknown kind, or no layout of so many moves.
    """
    if kind not in KINDS:
        raise ValueError(f"maze: found the kind {kind!r}, expected one of {KINDS}.")
    sizes: Sequence[Cell] = OTHER_SIZES if kind == "size" else SIZES
    low, high = MORE_WALLS if kind == "density" else WALL_SHARE
    figure, target = rng.choice(FIGURES), rng.choice(TARGETS)
    moves = moves or rng.choices(_MOVES, _WEIGHTS)[0]
    for _ in range(_TRIES):
        rows, columns = rng.choice(sizes)
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        start, goal, *others = rng.sample(cells, len(cells))
        detour = moves - abs(start[0] - goal[0]) - abs(start[1] - goal[1])
        if detour < 0 or detour % 2:  # no walls make a way of so many moves
            continue
        counts = [n for n in range(len(others) + 1) if low <= n / len(cells) <= high]
        maze = Maze(rows, columns, frozenset(others[: rng.choice(counts)]), start, goal, figure, target)
        if kind_of(maze) == kind and maze.distances().get(start) == moves:
            return maze
    raise ValueError(f"maze: found no layout of kind {kind!r} with {moves} moves; ask for fewer.")
