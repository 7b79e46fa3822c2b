"""The picture game turn by turn, by hand."""

import numpy as np
import pytest

from lam_jax.data.schemas import DataError, Example
from lam_jax.environments.play import Games
from lam_jax.scenes.maze import Maze, maze_of
from lam_jax.scenes.maze_picture import encode_maze
from lam_jax.scenes.maze_rows import SPLITS, MazeSizes, maze_row
from lam_jax.scenes.maze_steps import (
    ANSWER_LENGTH,
    CHAT_LENGTH,
    PROMPT_LENGTH,
    SEEN,
    TURNS,
    MazeStepRows,
    MazeSteps,
    maze_steps_row,
    maze_steps_task,
)
from lam_jax.scenes.tokenizer import load_tokenizer
from tests.scenes.test_maze import NOWHERE

# S # .
# . # .
# . . G
BENT = Maze(3, 3, frozenset({(0, 1), (1, 1)}), (0, 0), (2, 2), "fox", "boat")
ROW = Example("a", ({"role": "user", "content": "Lead the fox to the boat."},), (encode_maze(BENT),), BENT.facts())


def played(*answers: str) -> tuple[Games, dict]:
    games = Games(MazeSteps(), [ROW], np.zeros(1, np.uint32))
    for answer in answers:
        games.answer([answer])
    (verdict,) = games.verdicts()
    return games, {"return": verdict.reward, **verdict.parts}


@pytest.mark.parametrize(
    ("answers", "over", "figures"),
    [
        # The whole way: four times .3 / 4, and .7 for the goal.
        (["Go down.", "Go down.", "Go right.", "right"], True, (1.0, 1, 1, 1, 1, 4)),
        # Into the wall and back: still solved, not in the fewest moves; five of six moves were made.
        (["Go right.", "Go down.", "Go down.", "Go right.", "Go right."], True, (1.0, 1, 1, 0, 0.8, 5)),
        # Two of four moves, .3 * 2 / 4.
        (["Go down.", "Go down."], False, (0.15, 0, 0.5, 0, 1, 2)),
        # There and back again.
        (["Go down.", "Go up."], False, (0.0, 0, 0, 0, 1, 2)),
        # Words that are no move, and two moves at once.
        (["Hello.", "Go down, down."], False, (0.0, 0, 0, 0, 0, 2)),
        # The last turn.
        (["Go up."] * 6, True, (0.0, 0, 0, 0, 0, 6)),
    ],
)
def test_returns_by_hand(answers, over, figures):
    games, found = played(*answers)
    assert games.over == over
    names = ("return", "solved", "progress", "shortest", "legal", "turns")
    assert found == pytest.approx(dict(zip(names, figures)), abs=1e-9)


def test_walking_away_costs_what_walking_back_gives():
    away = Maze(2, 3, frozenset(), (0, 1), (0, 2), "fox", "boat")
    row = Example("a", ROW.messages, ROW.images, away.facts())
    games = Games(MazeSteps(), [row], np.zeros(1, np.uint32))
    returns = []
    for answer in ("Go left.", "Go right.", "Go right."):
        games.answer([answer])
        returns.append(float(games.returns[0]))
    assert returns == pytest.approx([-0.3, 0.0, 1.0])


def test_each_move_shows_where_the_figure_is_now():
    games, _ = played("Go down.", "Go right.", "Go down.")
    (conversation,) = games.conversations
    assert conversation.images == tuple(encode_maze(BENT, cell) for cell in ((0, 0), (1, 0), (1, 0), (2, 0)))
    assert conversation.places == ((0, 0), (2, 0), (4, 0), (6, 0))
    assert {message["content"] for message in conversation.messages[2::2]} == {SEEN}


def test_rows_show_whole_games_where_they_teach():
    for split in SPLITS:
        for index in range(6):
            row, maze = maze_steps_row(split, index), maze_of(maze_row(split, index)["facts"])
            assert maze_of(row.facts) == maze
            answers = [message["content"] for message in row.messages[1::2]]
            games = Games(MazeSteps(), [row], np.zeros(1, np.uint32))
            for answer in answers:
                games.answer([answer])
            if split in ("sft", "val"):
                # The demonstration is the game that it is played to be, in the fewest moves, pictures and all.
                assert games.over
                assert games.verdicts()[0].parts["shortest"] == 1
                assert games.conversations[0].messages == row.messages[:-1]
                assert games.conversations[0].images == row.images
            else:
                assert len(row.messages) == 2
                assert games.verdicts()[0].parts["progress"] > 0


def test_the_longest_game_fits():
    tokenizer, picture = load_tokenizer(), 12 + 2
    row = maze_steps_row("rl", 0)
    games = Games(MazeSteps(), [row], np.zeros(1, np.uint32))
    # The longest answer that goes on, of tokens that come back as they are.
    said = tokenizer.decode(tokenizer("left left left left left left")["input_ids"][:ANSWER_LENGTH])
    for _ in range(TURNS - 1):
        games.answer([said])
    (conversation,) = games.conversations
    chat = [dict(message) for message in conversation.messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert len(conversation.images) == TURNS
    assert len(tokenizer.tokenize(text)) + picture * TURNS <= PROMPT_LENGTH
    shown = [maze_steps_row("sft", index) for index in range(30)]
    texts = [tokenizer.apply_chat_template([dict(m) for m in row.messages], tokenize=False) for row in shown]
    longest = max(len(tokenizer.tokenize(text)) + picture * len(row.images) for text, row in zip(texts, shown))
    assert longest <= CHAT_LENGTH


def test_the_source_and_the_task():
    sizes = MazeSizes(dict.fromkeys(SPLITS, 3))
    rows = MazeStepRows(sizes)
    assert rows.read(NOWHERE, "val") == [maze_steps_row("val", index) for index in range(3)]
    assert rows.shrunk(1).read(NOWHERE, "val") == rows.read(NOWHERE, "val")[:1]
    assert rows.content() != rows.shrunk(1).content()
    with pytest.raises(DataError, match="no split 'other'"):
        rows.read(NOWHERE, "other")
    task = maze_steps_task(sizes)
    found = task.reward([ROW], [["Go down.", "Go up."]], range(2))
    assert [verdict.reward for verdict in found[0]] == pytest.approx([0.075, 0.0])
