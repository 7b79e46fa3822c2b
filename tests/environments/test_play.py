"""Games under way: conversations, returns and ends by hand; what is no step is refused."""

import dataclasses

import numpy as np
import pytest

from lam_jax.data.schemas import Example
from lam_jax.data.sources import JsonRows
from lam_jax.environments.environment import Environment, EnvironmentStep, Observation, check_step
from lam_jax.environments.first_step import FirstStepReward
from lam_jax.environments.play import Games, begun, continued, demonstrated
from lam_jax.errors import RewardError
from lam_jax.tasks.episodes import EpisodeTask, pictures_of, turns_of
from tests.environments.counting import Counting
from tests.made_reward import as_reward

ROW = Example("row", ({"role": "user", "content": "20"},), (b"picture",))
SEEDS = np.arange(3, dtype=np.uint32)


def test_games_grow_by_a_turn_and_add_up():
    games = Games(Counting(), [ROW, ROW, ROW], SEEDS)
    games.answer(["22 24", "23 24", "22"])
    assert games.alive.tolist() == [True, False, True]
    assert games.returns.tolist() == [1.0, 0.5, 1.0]
    games.answer(["24 25", "22", "25"])
    assert games.alive.tolist() == [True, False, False]
    # The answer of a game that is over adds nothing.
    assert games.returns.tolist() == [1.5, 0.5, 1.0]
    games.answer(["26", "26", "26"])
    # After three answers a game is over, whatever the environment says.
    assert games.over
    assert games.returns.tolist() == [2.5, 0.5, 1.0]
    assert games.turns.tolist() == [3, 1, 2]
    assert games.answers == [["22 24", "24 25", "26"], ["23 24"], ["22", "25"]]
    said = [[message["content"] for message in conversation.messages] for conversation in games.conversations]
    assert said[:2] == [["20", "22 24", "30 22", "24 25", "31 24"], ["20"]]
    verdicts = games.verdicts()
    assert [verdict.reward for verdict in verdicts] == [2.5, 0.5, 1.0]
    # Figures are those of a game's last answer, not of what came after it.
    assert [dict(verdict.parts) for verdict in verdicts] == [
        {"first": 26, "turns": 3},
        {"first": 23, "turns": 1},
        {"first": 25, "turns": 2},
    ]


def test_pictures_stand_in_their_turns():
    more = continued(ROW, "left", Observation("And now?", (b"a", b"b")))
    assert more.images == (b"picture", b"a", b"b")
    assert more.places == ((0, 0), (2, 0), (2, 0))
    whole = demonstrated(continued(more, "up", Observation("", (b"c",))), "right")
    assert whole.reference == "right"
    assert [message["role"] for message in whole.messages] == ["user", "assistant"] * 3
    first = begun(whole)
    assert (first.messages, first.images, first.places) == (ROW.messages, ROW.images, ROW.places)


def test_the_first_step_is_a_reward_of_one_answer():
    found = FirstStepReward(Counting())([ROW, ROW], [["22", "23"], ["22 23", "25"]], range(2))
    assert [[verdict.reward for verdict in row] for row in found] == [[1.0, 0.0], [0.5, 0.0]]


STEP = EnvironmentStep([Observation("")] * 2, np.zeros(2), np.zeros(2, bool))


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (None, "gave NoneType"),
        (
            dataclasses.replace(STEP, observations=[Observation("")]),
            "observations has the shape .1., expected .2.",
        ),
        (dataclasses.replace(STEP, done=np.zeros(3, bool)), "EnvironmentStep.done has the shape .3."),
        (dataclasses.replace(STEP, done=np.zeros(2)), "EnvironmentStep.done is of float64"),
        (dataclasses.replace(STEP, rewards=np.array([0, np.nan])), "game 1 has the reward nan"),
        (dataclasses.replace(STEP, parts={"solved": np.zeros(1)}), "EnvironmentStep.parts..solved.. has the shape .1."),
    ],
)
def test_what_is_no_step_is_refused(step, says):
    with pytest.raises(RewardError, match=says):
        check_step(step, "Counting", 2)


@as_reward
def nothing(examples, answers):
    return np.zeros((len(answers), len(answers[0])))


def task(**changes) -> EpisodeTask:
    fields = {"chat_lengths": (8,), "prompt_lengths": (8,), "answer_length": 2, "environment": Counting()} | changes
    return EpisodeTask("game", "Game", JsonRows("rows.json", {"sft": (0.0, 1.0)}), nothing, **fields)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"environment": None}, "environment is None"),
        ({"environment": Counting(turns=0)}, "0 turns"),
        ({"prompt_lengths": (8, 16)}, "expected one length"),
        ({"evaluation_reward": nothing}, "evaluation_reward is set"),
    ],
)
def test_tasks_that_cannot_be_played_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        task(**changes)


def test_a_task_has_room_for_the_pictures_of_a_game():
    made = task()
    assert isinstance(made.game, Environment)
    assert turns_of(made) == 3
    assert [pictures_of([made], name) for name in ("game", "paired")] == [3, 1]
