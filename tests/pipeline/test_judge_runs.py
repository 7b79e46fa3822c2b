"""A judge as the reward of a recipe: what is tried and told before training, and what lies in the run's folder."""

import dataclasses
import json

import jax
import pytest
from PIL import Image

from lam_jax.errors import OtherConfigurationError, RewardError
from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.parallel.mesh import make_mesh
from lam_jax.pipeline import open_run
from lam_jax.pipeline.judge_cost import judge_cost_lines, judge_costs
from lam_jax.pipeline.resources import Resources
from lam_jax.recipe import Recipe
from lam_jax.recipes import own
from lam_jax.rewards import judge_client
from lam_jax.rewards.dimensions import ROLE_PLAY_RUBRIC
from lam_jax.rewards.functions import WeightedReward
from lam_jax.rewards.judge import JudgeConfig, JudgeError, JudgeReward
from lam_jax.rewards.judge_store import CACHE, LOG
from lam_jax.rl import ALGORITHMS
from tests.rewards.faulty_judge import FaultyJudge, refusal, steady

CHAT = [{"role": "user", "content": "What is there?"}, {"role": "assistant", "content": "A red lion."}]
ROWS = 40


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(judge_client, "_pause", lambda retry: 0.0)


def recipe(folder, url: str, **judge) -> Recipe:
    Image.new("RGB", (56, 56), "red").save(folder / "red.png")
    for name in ("task", "paired"):
        rows = [{"id": f"{name}{i}", "messages": CHAT, "images": ["red.png"]} for i in range(ROWS)]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    made = own.recipe(str(folder / "task.json"), str(folder / "paired.json"), rl_steps=10, validate_every=5)
    return with_reward(made, JudgeReward(JudgeConfig(url, "fake", **judge), ROLE_PLAY_RUBRIC))


def with_reward(made: Recipe, reward) -> Recipe:
    return dataclasses.replace(made, tasks=(dataclasses.replace(made.tasks[0], reward=reward),))


def opened(made: Recipe, folder) -> Resources:
    return Resources.open(made, folder / "data", make_mesh(devices=jax.devices()[:1]))


def test_the_cost_by_hand(tmp_path):
    """Two spaces; 10 steps of 4 prompts x 8 samples; validation of 2 rows before, after 5 and after 10 steps; scores of
    4 test rows x 3 and of the 14 RL rows x 2 after stages 5 and 6."""
    made = recipe(tmp_path, "http://127.0.0.1:9/v1")
    resources = opened(made, tmp_path)
    counts = {split: len(resources.examples("own", split)) for split in ("rl", "val", "test")}
    assert counts == {"rl": 14, "val": 2, "test": 4}
    (cost,) = judge_costs(resources)
    assert (cost.training, cost.evaluation, cost.refills) == (2 * 320, 2 * (3 * 2 * 8 + 2 * (4 * 3 + 14 * 2)), 0)
    assert cost.completion == 8 * 60
    assert 350 < cost.prompt < 700
    (line,) = judge_cost_lines(resources)
    assert "about 896 calls (640 for rewards, 256 for validation and scores)" in line
    # The probe of the codes' reach asks a judge only where it may: 2 rows x 8 answers in either space and as many under
    # random codes, before RL and after it, and 2 x 2 along the references.
    reach = dataclasses.replace(made.evaluation, reach=ReachSettings(judged=True))
    (judged,) = judge_costs(dataclasses.replace(resources, recipe=dataclasses.replace(made, evaluation=reach)))
    assert judged.evaluation - cost.evaluation == 2 * (2 * 3 * 8 + 2)
    dapo = dataclasses.replace(made, rl=dataclasses.replace(made.rl, algorithm=ALGORITHMS["dapo"]))
    assert judge_costs(dataclasses.replace(resources, recipe=dapo))[0].refills == 3 * 640
    both = with_reward(made, WeightedReward((("judge", made.tasks[0].reward, 1.0),)))
    assert judge_costs(dataclasses.replace(resources, recipe=both)) == [cost]
    assert judge_costs(dataclasses.replace(resources, recipe=with_reward(made, own.reward_of("similarity")))) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            refusal(400, "Unsupported parameter: use max_completion_tokens, not max_tokens"),
            "token_limit=max_completion_tok",
        ),
        (refusal(401, "who are you"), "refuses model 'fake': status 401"),
        (refusal(404, "no such model"), "refuses model 'fake': status 404"),
        (refusal(402, "pay"), r"\(http_402\).* no credit left"),
        (steady(11, 3), r"\(out_of_range\)"),
        (lambda handler, body: handler.send_error(503), r"\(http_503\)"),
    ],
)
def test_a_judge_that_cannot_be_used_stops_before_training(tmp_path, answer, message):
    with FaultyJudge() as fake:
        fake.answer = answer
        with pytest.raises(JudgeError, match=message) as caught:
            opened(recipe(tmp_path, fake.url, max_retries=1), tmp_path).try_out()
    assert isinstance(caught.value, RewardError), "the steps of a run are saved before it ends"


def test_a_judge_that_cannot_be_reached_stops_before_training(tmp_path):
    with pytest.raises(JudgeError, match=r"Task own: the judge .* \(connection\).*lam-jax judge check --judge"):
        opened(recipe(tmp_path, "http://127.0.0.1:9/v1", max_retries=0), tmp_path).try_out()


def test_a_run_keeps_replies_and_may_go_on_elsewhere(tmp_path):
    out = tmp_path / "run"
    with FaultyJudge() as fake:
        fake.answer = steady(8, 8)
        with open_run(recipe(tmp_path, fake.url), out) as (_, resources):
            reward = resources.tasks["own"].reward
            examples = list(resources.examples("own", "rl")[:3])
            first = reward(examples, [["a", "b"]] * 3, range(2))
    calls = len((out / LOG).read_text().splitlines())
    assert (out / CACHE).is_file()
    assert calls > 2
    # Another port, and no server there: what was answered is not asked again.
    moved = recipe(tmp_path, "http://127.0.0.1:9/v1", max_retries=0, concurrency=2)
    with open_run(moved, out) as (_, resources):
        assert resources.tasks["own"].reward(examples, [["a", "b"]] * 3, range(2)) == first
    assert len((out / LOG).read_text().splitlines()) == calls
    with (
        pytest.raises(OtherConfigurationError, match=r"judge\.temperature"),
        open_run(recipe(tmp_path, fake.url, temperature=1.0), out),
    ):
        pass


def test_a_judge_by_name(tmp_path):
    recipe(tmp_path, "http://h/v1")
    files = str(tmp_path / "task.json"), str(tmp_path / "paired.json")
    settings = ("temperature=none", "max_calls=9")
    made = own.recipe(
        *files, reward=("judge=2", "similarity"), judge="http://h/v1", judge_model="m", judge_settings=settings
    )
    (name, judge, weight), (other, _, _) = made.tasks[0].reward.rewards
    assert (name, weight, other) == ("judge", 2.0, "similarity")
    assert judge.judge == JudgeConfig("http://h/v1", "m", temperature=None, max_calls=9)
    assert list(judge.rubric.dimensions) == ["Accuracy", "Completeness", "Image-Text Relevance", "Fluency"]
    role_play = own.recipe(*files, reward=("judge:role_play",), judge="http://h/v1", judge_model="m")
    assert role_play.tasks[0].reward.rubric == ROLE_PLAY_RUBRIC
    with pytest.raises(ValueError, match="expected --judge and --judge-model beside it"):
        own.recipe(*files, reward=("judge",))
    with pytest.raises(ValueError, match="found the rubric 'x', expected one of"):
        own.recipe(*files, reward=("judge:x",), judge="http://h/v1", judge_model="m")
    with pytest.raises(ValueError, match="found one of them"):
        own.recipe(*files, judge="http://h/v1")
