"""Plain functions as rewards: what they may give back, and what a message says of anything else."""

import math

import numpy as np
import pytest

from lam_jax.data.schemas import Example
from lam_jax.errors import RewardError
from lam_jax.rewards.functions import FunctionReward
from lam_jax.rewards.reward import RewardShapeError
from lam_jax.rewards.verdict import Verdict

EXAMPLES = [
    Example(f"r{i}", ({"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."})) for i in (0, 1)
]
ANSWERS = [["a", "b", "c"], ["d", "e", "f"]]


def reward_of(found):
    return FunctionReward(lambda examples, answers: found)(EXAMPLES, ANSWERS, range(3))


@pytest.mark.parametrize(
    "found", [[[1, 2, 3], [4, 5, 6]], np.arange(1, 7).reshape(2, 3), np.arange(1, 7.0).reshape(2, 3)]
)
def test_numbers_become_verdicts(found):
    assert [[verdict.reward for verdict in row] for row in reward_of(found)] == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "found NoneType None"),
        (0.5, "found float 0.5"),
        ([1, 2], "found a flat list of 2"),
        ([np.array(1.0), np.array(2.0)], "found a flat list of 2"),
        ([[1, 2, 3]], "found a list of 1 with items of length 3"),
        ([[1, 2, 3], [4]], "found a list of 2 with items of length 1, 3"),
        ([["x", "y", "z"], [1, 2, 3]], "found a list of 2 with items of length 3"),
        (np.zeros((2, 1)), r"found an array of shape \[2, 1\]"),
        ([[1], [2]], "found a list of 2 with items of length 1"),
        (np.zeros(6), r"found an array of shape \[6\]"),
        (np.zeros((2, 3, 1)), r"found an array of shape \[2, 3, 1\]"),
        (np.zeros((3, 2)), r"found an array of shape \[3, 2\]"),
        ([[1, 2, 10**400], [4, 5, 6]], "length 3, among them int 1000"),
        ([[1, 2, object()], [4, 5, 6]], "among them object <object"),
        ([[Verdict(error="no")] * 3] * 2, "among them Verdict Verdict"),
        ([[{"a": 1}] * 3] * 2, r"among them dict \{'a': 1\}"),
        (np.zeros((2, 3), "datetime64[s]"), r"shape \[2, 3\], among them datetime"),
        ([[1, 2, 10**5000], [4, 5, 6]], "among them int that cannot be written"),
        ([[1, 2, 3], [4, math.nan, 6]], "found nan for sample 1 of row 'r1'"),
        ([[1, 2, None], [4, 5, 6]], "found nan for sample 2 of row 'r0'"),
    ],
)
def test_anything_else_is_described(found, message):
    with pytest.raises(RewardShapeError, match=message) as error:
        reward_of(found)
    assert str(error.value).startswith("Reward reward_of.<locals>.<lambda>: ")
    if "found nan" not in message:
        assert "expected one number an answer: shape [2, 3] (prompts, samples)" in str(error.value)


@pytest.mark.parametrize("scores", [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)])
def test_a_verdict_holds_finite_scores(scores):
    with pytest.raises(ValueError, match="expected finite scores"):
        Verdict({"reward": scores})


def test_what_is_no_number_ends_a_run_as_an_exception_does():
    """The loop saves the steps before a `RewardError`, and the command ends with its code."""
    assert issubclass(RewardShapeError, RewardError)
    assert RewardShapeError("no numbers").exit_code == 15
