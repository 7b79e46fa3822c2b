"""The picture game: layouts, ways, answers walked by hand, rewards, and splits that do not meet."""

import functools
import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from lam_jax.data.schemas import DataError, Example
from lam_jax.scenes.maze import KINDS, OTHER_SIZES, SIZES, Maze, draw_maze, is_held_out_pair, maze_of
from lam_jax.scenes.maze_moves import MazeReward, is_moves, read_moves, say_moves, score_moves, walk
from lam_jax.scenes.maze_picture import FLOOR, GOAL, GROUND, WALL, render_maze
from lam_jax.scenes.maze_rows import (
    ANSWER_LENGTH,
    CHAT_LENGTH,
    PROMPT_LENGTH,
    SPLITS,
    MazeRows,
    MazeSizes,
    maze_row,
)
from lam_jax.scenes.tokenizer import load_tokenizer

# S # .
# . # .
# . . G   four moves, and no other way
BENT = Maze(3, 3, frozenset({(0, 1), (1, 1)}), (0, 0), (2, 2), "fox", "boat")


def test_the_shortest_way_goes_round_the_walls():
    assert BENT.shortest() == ["down", "down", "right", "right"]
    assert BENT.distances() == {(2, 2): 0, (2, 1): 1, (1, 2): 1, (0, 2): 2, (2, 0): 2, (1, 0): 3, (0, 0): 4}
    assert BENT.best_moves((2, 2)) == []


def test_shortest_ways_are_as_short_as_those_of_all_walks():
    """Every sequence of moves, shortest first: the first that ends at the goal."""
    for number in range(12):
        maze = draw_maze(random.Random(number), KINDS[number % len(KINDS)], moves=1 + number % 4)
        length = next(
            n
            for n in itertools.count(1)
            if any(
                walk(maze, way).end == maze.goal and not walk(maze, way).blocked
                for way in itertools.product(("left", "right", "up", "down"), repeat=n)
            )
        )
        assert len(maze.shortest()) == length
        assert walk(maze, maze.shortest(random.Random(1))).end == maze.goal


@pytest.mark.parametrize(
    ("answer", "moves"),
    [
        ("Go left, up, up.", ["left", "up", "up"]),
        ("down then right and up", ["down", "right", "up"]),
        ("Left. Up.", ["left", "up"]),
        ("Go.", None),
        ("", None),
        ("Go left, then wait.", None),
        ("Go left 2.", None),
        ("Go left, up,", None),
        ("<left>", None),
    ],
)
def test_answers_are_moves_or_nothing(answer, moves):
    assert read_moves(answer) == moves
    assert is_moves(answer) == (moves is not None)


@pytest.mark.parametrize(
    ("answer", "reward", "parts"),
    [
        ("Go down, down, right, right.", 1.0, (1, 1, 1, 1)),
        # There and back again: solved, not in the fewest moves.
        ("Go down, up, down, down, right, right.", 1.0, (1, 1, 0, 1)),
        # Two of the four moves: .3 * 2 / 4.
        ("Go down, down.", 0.15, (0, 0.5, 0, 1)),
        # The wall ends the walk after one move.
        ("Go down, right, down, right, right.", 0.075, (0, 0.25, 0, 0)),
        # Past the goal, off the grid: a move that cannot be made.
        ("Go down, down, right, right, right.", 0.3, (0, 1, 0, 0)),
        # Past the goal and away from it.
        ("Go down, down, right, right, up.", 0.225, (0, 0.75, 0, 1)),
        ("Go up.", 0.0, (0, 0, 0, 0)),
        ("The fox is on the boat.", 0.0, (0, 0, 0, 0)),
    ],
)
def test_rewards_by_hand(answer, reward, parts):
    verdict = score_moves(BENT, answer)
    assert verdict.reward == pytest.approx(reward)
    assert verdict.parts == dict(zip(("solved", "progress", "shortest", "legal"), parts))


def test_the_reward_of_rows():
    example = Example("a", ({"role": "user", "content": "Lead the fox to the boat."},), (), BENT.facts())
    right, wrong = "Go down, down, right, right.", "Go up."
    found = MazeReward()([example, example], [[right, wrong], [wrong, right]], range(2))
    assert [[verdict.reward for verdict in row] for row in found] == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (None, "no facts"),
        ({"task": "help"}, "task 'help'"),
        ({"task": "maze", "rows": 2}, "no layout"),
        (BENT.facts() | {"walls": [[0, 1], [1, 0]]}, "no way from"),
    ],
)
def test_other_facts_are_refused(facts, says):
    with pytest.raises(ValueError, match=says):
        maze_of(facts)


def test_facts_and_back():
    assert maze_of(BENT.facts()) == BENT


NOWHERE = Path("nowhere")


@functools.cache
def mazes(split: str, count: int = 50) -> list[Maze]:
    return [maze_of(maze_row(split, index)["facts"]) for index in range(count)]


def test_splits_hold_what_they_say():
    drawn = {split: mazes(split) for split in SPLITS}
    shares = {s: [len(m.walls) / (m.rows * m.columns) for m in found] for s, found in drawn.items()}
    sizes = {split: {(m.rows, m.columns) for m in found} for split, found in drawn.items()}
    assert sizes["sft"] == sizes["id_test"] == sizes["ood_position"] == set(SIZES)
    assert sizes["ood_size"] == set(OTHER_SIZES)
    assert not set(SIZES) & set(OTHER_SIZES)
    assert (
        max(max(shares[split]) for split in shares if split != "ood_density")
        <= 0.25
        < 0.3
        <= min(shares["ood_density"])
    )
    known = [m for split in ("sft", "rl", "val", "id_test") for m in drawn[split]]
    assert not any(map(is_held_out_pair, known))
    assert all(map(is_held_out_pair, drawn["ood_position"]))
    # The pairs themselves, and not only what the rule says of them.
    pairs = [{(m.rows, m.columns, m.start, m.goal) for m in found} for found in (known, drawn["ood_position"])]
    assert not pairs[0] & pairs[1]


def test_no_layout_of_training_is_in_a_test():
    def layouts(*splits: str) -> set:
        return {(m.rows, m.columns, m.start, m.goal, m.walls) for split in splits for m in mazes(split)}

    tests = layouts(*(split for split in SPLITS if split.endswith("test") or split.startswith("ood")))
    assert not layouts("sft", "rl") & (tests | layouts("val"))


def test_rows_are_functions_of_their_numbers():
    sizes = MazeSizes(dict.fromkeys(SPLITS, 4))
    rows = MazeRows(sizes).read(NOWHERE, "id_test")
    assert [row.id for row in rows] == [f"maze_id_test-{i}" for i in range(4)]
    assert MazeRows(sizes.shrunk(2)).read(NOWHERE, "id_test") == rows[:2]
    assert MazeRows(sizes).content() == MazeRows(sizes).content() != MazeRows(sizes.shrunk(2)).content()
    for row in rows:
        assert score_moves(maze_of(row.facts), row.reference).parts["shortest"] == 1


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda: maze_row("test", 0), ValueError, "unknown split 'test'"),
        (lambda: maze_row("sft", -1), ValueError, "index -1"),
        (lambda: MazeRows().read(NOWHERE, "ood"), DataError, "no split 'ood'"),
        (lambda: MazeSizes({"sft": 3}), ValueError, "must hold the splits"),
        (lambda: MazeSizes(dict.fromkeys(SPLITS, 0)), ValueError, "at least 1"),
        (lambda: draw_maze(random.Random(0), "other"), ValueError, "the kind 'other'"),
        (lambda: draw_maze(random.Random(0), "size", moves=40), ValueError, "no layout of kind 'size'"),
    ],
)
def test_bad_settings_are_named(act, error, says):
    with pytest.raises(error, match=says):
        act()


def test_the_picture_shows_the_grid():
    pixels = render_maze(BENT)
    assert pixels.shape == (84, 112, 3)
    # Cells of 28 pixels, 14 pixels of ground on both sides; corners of cells, away from the sprites.
    assert tuple(pixels[3, 4]) == GROUND
    cells = itertools.product(range(3), repeat=2)
    corner = {(row, column): tuple(pixels[28 * row + 1, 14 + 28 * column + 1]) for row, column in cells}
    assert corner == {cell: FLOOR for cell in corner} | {(0, 1): WALL, (1, 1): WALL, (2, 2): GOAL}
    # The figure is where it is said to be, and the goal's sprite gives way to it.
    other = render_maze(BENT, (1, 0))
    changed = np.abs(pixels.astype(int) - other).sum(axis=2)
    assert changed[:28, 14:42].any()
    assert changed[28:56, 14:42].any()
    assert not changed[:, 42:].any()
    assert not changed[56:].any()


def test_rows_fit_their_lengths():
    tokenizer, picture = load_tokenizer(), 12 + 2
    for split in SPLITS:
        for index in range(8):
            user, answer = (message["content"] for message in maze_row(split, index)["messages"])
            chat = [{"role": "user", "content": user}]
            prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            asked, said = len(tokenizer.tokenize(prompt)) + picture, len(tokenizer.tokenize(answer)) + 1
            assert asked <= PROMPT_LENGTH
            assert asked + said + 1 <= CHAT_LENGTH
            assert said <= ANSWER_LENGTH
            assert answer == say_moves(read_moves(answer) or [])
