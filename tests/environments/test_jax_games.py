"""Games of JAX libraries behind the protocol: one written here, and one of gymnax where that is installed."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lam_jax.environments.environment import Observation
from lam_jax.environments.jax_games import JaxEnvironment, gymnax_game
from lam_jax.environments.play import Games
from lam_jax.errors import RewardError

traces = []


class Line:
    """Begins at 0 to 3; right adds 1, left takes 1 away, and 4 wins as many points as were needed."""

    def reset(self, key):
        place = jax.random.randint(key, (), 0, 4)
        return {"place": place}, (place, jnp.int32(0))

    def step(self, key, state, action):
        traces.append(1)
        place, made = state[0] + jnp.where(action == 1, 1, -1), state[1] + 1
        done = place == 4
        return {"place": place}, (place, made), jnp.where(done, made, 0).astype(jnp.float32), done


def show(seen) -> Observation:
    return Observation(f"at {int(seen['place'])}")


LINE = JaxEnvironment(Line, ("left", "right"), show, turns=5)


def test_a_game_is_played_in_words():
    rows = [LINE.begin(seed, "Go to 4.") for seed in range(6)]
    starts = [int(row.messages[0]["content"].split()[1]) for row in rows]
    assert len(set(starts)) > 1
    assert all(row.messages[0]["content"].endswith("\nGo to 4.") for row in rows)
    games = Games(LINE, rows, np.zeros(6, np.uint32))
    for _ in range(5):
        games.answer(["Right!"] * 6)
    needed = [4 - start for start in starts]
    assert games.turns.tolist() == needed
    assert games.returns.tolist() == needed
    assert games.conversations[0].messages[-1]["content"] == "at 3"


def test_all_games_are_one_compiled_program():
    traces.clear()
    rows = [LINE.begin(seed, "Go.") for seed in range(7)]
    games = Games(LINE, rows, np.zeros(7, np.uint32))
    for _ in range(3):
        games.answer(["left"] * 7)
    assert len(traces) == 1


def test_an_answer_that_is_no_action_ends_the_game():
    rows = [LINE.begin(seed, "Go.") for seed in (0, 0, 0)]
    games = Games(LINE, rows, np.arange(3, dtype=np.uint32))
    games.answer(["left", "jump", ""])
    assert games.alive.tolist() == [True, False, False]
    games.answer(["right", "right", "right"])
    assert games.returns.tolist() == [0, 0, 0]
    assert [verdict.parts["legal"] for verdict in games.verdicts()] == [1, 0, 0]


def test_bad_settings_and_rows_are_named():
    with pytest.raises(ValueError, match="all different"):
        JaxEnvironment(Line, ("left", "Left."), show, 3)
    with pytest.raises(ValueError, match="turns is 0"):
        JaxEnvironment(Line, ("left",), show, 0)
    row = LINE.begin(0, "Go.")
    object.__setattr__(row, "facts", {})
    with pytest.raises(RewardError, match="games, row 0: found facts"):
        Games(LINE, [row], np.zeros(1, np.uint32))


def catch():
    return gymnax_game("Catch-bsuite")


def show_catch(board) -> Observation:
    """The board of 10 x 5 as a picture."""
    pixels = np.repeat(np.repeat(np.asarray(board > 0, np.uint8) * 255, 8, axis=0), 16, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(buffer, "PNG")
    return Observation("", (buffer.getvalue(),))


def board(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)))[4::8, 8::16, 0] > 0


def test_a_jitted_environment_of_gymnax():
    """The paddle in the last row follows the ball, which falls a row a turn: every game is won, and lost otherwise."""
    pytest.importorskip("gymnax")
    environment = JaxEnvironment(catch, ("left", "stay", "right"), show_catch, turns=9)
    rows = [environment.begin(seed, "Catch it.") for seed in range(4)]
    for follows in (True, False):
        games = Games(environment, rows, np.zeros(4, np.uint32))
        while not games.over:
            answers = []
            for conversation in games.conversations:
                seen = board(conversation.images[-1])
                ball, paddle = np.argmax(seen[:-1].any(axis=0)), np.argmax(seen[-1])
                side = int(np.sign(ball - paddle)) if follows else (-1 if ball > 2 else 1)
                answers.append(("left", "stay", "right")[side + 1])
            games.answer(answers)
        assert games.turns.tolist() == [9] * 4
        assert games.returns.tolist() == [1.0 if follows else -1.0] * 4
        assert len(games.conversations[0].images) == 9


def test_without_gymnax_it_is_said_what_to_install():
    try:
        import gymnax  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"lam_jax\[gymnax\]"):
            catch()
