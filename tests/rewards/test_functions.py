"""Functions of one's own as rewards: of files and modules, async, with parts, with weights, and when they raise."""

import asyncio
import dataclasses
import math
import sys

import pytest

from lam_jax.data.schemas import Example, Where
from lam_jax.errors import RewardError
from lam_jax.recipes.rewards import reward_of
from lam_jax.rewards.functions import FileReward, FunctionReward, WeightedReward
from lam_jax.rewards.reward import RewardShapeError
from lam_jax.rewards.verdict import Verdict
from lam_jax.values import decode, encode

CHAT = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."})
EXAMPLES = [Example(f"r{i}", CHAT, where=Where("rows.jsonl", i)) for i in (0, 1)]
ANSWERS = [["a", "bb", "ccc"], ["d", "ee", "x"]]
LENGTHS = [[1.0, 2.0, 3.0], [1.0, 2.0, 1.0]]


def rewards(reward, answers=ANSWERS) -> list[list[float]]:
    return [[verdict.reward for verdict in row] for row in reward(EXAMPLES, answers, range(3))]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a Python file under a name of its own, which no other test imports."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str, name: str):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return path

    return write


def test_a_file_is_a_reward_and_so_is_its_async_function(file):
    path = file(
        "import asyncio\n"
        "def length(examples, answers):\n    return [[len(a) for a in row] for row in answers]\n"
        "async def later(examples, answers):\n    await asyncio.sleep(0)\n    return length(examples, answers)\n",
        "made_reward_async",
    )
    for name in ("length", "later"):
        assert rewards(reward_of(f"{path}:{name}")) == LENGTHS

    async def inside_a_loop():
        return rewards(reward_of(f"{path}:later"))

    assert asyncio.run(inside_a_loop()) == LENGTHS


def test_named_parts_are_added_up_and_kept_apart():
    def parts(examples, answers):
        return {"length": LENGTHS, "penalty": [[-1.0] * 3] * 2}

    verdict = FunctionReward(parts)(EXAMPLES, ANSWERS, range(3))[0][2]
    assert verdict.reward == verdict.mean_ratio == 2.0
    assert dict(verdict.named) == {"length": 3.0, "penalty": -1.0}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "found no parts"),
        ({"a": LENGTHS, "b": [1.0]}, "part 'b': found a flat list of 1"),
        ({"a": [[1, 2, math.inf], [1, 2, 3]]}, "part 'a': found inf for sample 2 of row 'r0'"),
    ],
)
def test_bad_parts_are_named(found, message):
    with pytest.raises(RewardShapeError, match=message):
        FunctionReward(lambda examples, answers: found)(EXAMPLES, ANSWERS, range(3))


def test_weights_add_up_and_the_parts_have_none(file):
    path = file(
        "def length(examples, answers):\n    return [[len(a) for a in row] for row in answers]\n"
        "def ones(examples, answers):\n    return [[1 for a in row] for row in answers]\n",
        "made_reward_weights",
    )
    reward = reward_of((f"{path}:length=2", f"{path}:ones=-0.5"))
    assert rewards(reward) == [[1.5, 3.5, 5.5], [1.5, 3.5, 1.5]]
    verdict = reward(EXAMPLES, ANSWERS, range(3))[0][1]
    assert dict(verdict.named) == {"length": 2.0, "ones": 1.0}
    assert rewards(reward_of(f"{path}:length=3"))[0] == [3.0, 6.0, 9.0]


def test_parts_of_a_weighted_reward_keep_their_names():
    def two(examples, answers):
        return {"x": LENGTHS, "y": LENGTHS}

    reward = WeightedReward((("mine", FunctionReward(two), 0.5), ("same", FunctionReward(two), 0.5)))
    verdict = reward(EXAMPLES, ANSWERS, range(3))[0][1]
    assert verdict.reward == 4.0
    assert dict(verdict.named) == {
        **{"mine": 4.0, "same": 4.0, "mine.x": 2.0},
        **{"mine.y": 2.0, "same.x": 2.0, "same.y": 2.0},
    }


@dataclasses.dataclass(frozen=True)
class FailsOnX:
    def __call__(self, examples, answers, samples):
        return [[Verdict(error="an x") if a == "x" else Verdict({"q": (2.0, 4.0)}) for a in row] for row in answers]


def test_a_failure_of_one_reward_is_a_failure_of_the_sum():
    reward = WeightedReward((("judge", FailsOnX(), 1.0), ("length", FunctionReward(lambda e, a: LENGTHS), 1.0)))
    verdicts = reward(EXAMPLES, ANSWERS, range(3))
    assert verdicts[1][2].error == "judge: an x"
    assert verdicts[1][0].reward == 1.5


def test_an_exception_names_function_example_and_line(file):
    path = file(
        "def score(examples, answers):\n    return [[1 / (a != 'x') for a in row] for row in answers]\n",
        "made_reward_raises",
    )
    reward = reward_of(f"{path}:score")
    with pytest.raises(RewardError) as raised:
        reward(EXAMPLES, ANSWERS, range(3))
    text = str(raised.value)
    for part in ("made_reward_raises.py:score raised ZeroDivisionError", "line 2", "row 'r1'", "rows.jsonl, row 1"):
        assert part in text
    assert raised.value.exit_code == 15


def test_the_file_belongs_to_the_recipe(file):
    path = file("def score(examples, answers):\n    return 0\n", "made_reward_content")
    reward = reward_of(f"{path}:score")
    assert decode(encode(reward)) == reward
    path.write_text("def score(examples, answers):\n    return 1\n")
    assert reward_of(f"{path}:score") != reward
    with pytest.raises(ValueError, match="the file has changed since"):
        FileReward(str(path), "score", "0" * 64).load()


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("def score(e, a):\n    return 0\n", "scores", r"no function 'scores', expected one of \['score'\]"),
        ("score = 3\n", "score", "no function 'score'"),
        (
            "import nothing_of_this_name\n",
            "score",
            r"cannot be imported: ModuleNotFoundError: .* \(line_made.*line 1\)",
        ),
        ("def score(:\n", "score", "cannot be imported: SyntaxError"),
    ],
)
def test_a_file_without_the_function_is_refused(file, text, function, message):
    path = file(text, f"line_made_{abs(hash((text, function)))}")
    with pytest.raises(ValueError, match=message):
        reward_of(f"{path}:{function}")


def test_a_file_may_not_hide_a_module(file):
    with pytest.raises(ValueError, match="rename the file"):
        reward_of(f"{file('def score(e, a): ...', 'json')}:score")


@pytest.mark.parametrize("name", ["math:pi", "math:nothing", "no_module_of_this_name:f", "math", "", "gone.py:score"])
def test_a_name_that_is_no_function_is_refused(name):
    with pytest.raises(ValueError, match="Reward"):
        reward_of(name)


def test_a_weight_is_a_number():
    with pytest.raises(ValueError, match="found the weight 'much'"):
        reward_of("similarity=much")
    for weight in ("nan", "inf", "-inf"):
        with pytest.raises(ValueError, match=r"'similarity' has weight .*, expected a finite number"):
            reward_of(f"similarity={weight}")


def test_a_function_is_found_by_its_name():
    assert reward_of("math:fsum") == FunctionReward(math.fsum)
    assert dataclasses.is_dataclass(reward_of("similarity"))
    assert reward_of(math.fsum) == FunctionReward(math.fsum)
    fails = FailsOnX()
    assert reward_of(fails) is fails


def test_a_function_that_changes_its_lists_changes_nothing_of_the_next_one():
    def sorts(examples, answers):
        examples.clear()
        for group in answers:
            group.sort(reverse=True)
            group.pop()
        answers.pop()
        return [[0.0] * 3] * 2

    def length(examples, answers):
        return [[len(a) for a in row] for row in answers]

    answers = [list(row) for row in ANSWERS]
    both = WeightedReward((("sorts", FunctionReward(sorts), 1.0), ("length", FunctionReward(length), 1.0)))
    assert rewards(both, answers) == LENGTHS
    assert answers == ANSWERS


def test_a_sum_of_parts_that_is_too_large_is_named():
    with pytest.raises(RewardShapeError, match=r"sum of its parts: found inf for sample 0 of row 'r0', expected a fin"):
        rewards(FunctionReward(lambda examples, answers: {"a": [[1e308] * 3] * 2, "b": [[1e308] * 3] * 2}))
