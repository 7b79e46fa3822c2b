"""Which phases two recipes share, by what differs between them."""

import dataclasses

import jax
import pytest

from lam_jax.latent.agent import Reading
from lam_jax.parallel.mesh import make_mesh
from lam_jax.pipeline.phases import STAGE_PHASES
from lam_jax.pipeline.plan import phases_of
from lam_jax.pipeline.shares import Shares, share_data
from lam_jax.recipe import AnswerSet, Recipe, in_every_space
from lam_jax.recipes import demo
from lam_jax.rewards.functions import FunctionReward
from lam_jax.rl import algorithm_named
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.checkpoint import save_checkpoint
from lam_jax.train.method import Method
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.spaces import PAPER_SPACES
from tests.two_spaces import BOTH, HELP, TASKS

CONTENT = {"model": {"w": "a"}, "rows": ["paired", "text", "role_play", "help"], "rewards": {}}
STAGES = set(STAGE_PHASES)
PAIRS = [(space, task) for space in ("latent", "token") for task in ("role_play", "help")]
TUNED = {f"{name}_{space}_{task}" for name in ("sft", "scores_sft") for space, task in PAIRS}
REACH = {f"reach_{space}_{task}" for space, task in PAIRS}
ALL = STAGES | {"codes", "reach"} | TUNED | REACH
SCORES = {name for name in ALL if name.startswith(("scores", "reach_"))}


def replaced(recipe: Recipe, name: str, **fields) -> Recipe:
    return dataclasses.replace(recipe, **{name: dataclasses.replace(getattr(recipe, name), **fields)})


def with_content(**changed):
    return CONTENT | changed


def shared(recipe: Recipe, content=CONTENT, other: Recipe | None = None) -> set[str]:
    """Phases that a recipe shares with the demo's."""
    first, second = Shares(other or BOTH, CONTENT, None).planned, Shares(recipe, content, None).planned
    return {name for name, key in second.items() if first.get(name) == key}


def flat(examples, answers):
    return [[1.0 for _ in group] for group in answers]


BASE = BOTH
CODED = demo.recipe(task=TASKS, space=("latent",))
WARM = in_every_space(SamplingConfig(temperature=0.7))
OF_RL = ("rl", "scores_rl", "reach_rl", "data", "base_model", "control")


def test_stage_6_is_never_shared():
    assert shared(BASE) == ALL
    # Scores are of the full weights, whatever rollouts hold.
    assert shared(replaced(CODED, "rl", rollout_weights="int8"), other=CODED) == shared(CODED, other=CODED)
    assert {n for n in phases_of(BASE) if not n.startswith(OF_RL)} == ALL


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (demo.recipe(task=TASKS, algorithm="bnpo", space=PAPER_SPACES), ALL),
        (replaced(BASE, "rl", steps=3, samples=8), ALL),
        (replaced(BASE, "rl", optimisers=in_every_space(OptimiserConfig(1.0))), ALL),
        (dataclasses.replace(BASE, name="other", spaces=("token",)), {n for n in ALL if "_latent_" not in n}),
        (replaced(BASE, "rl", sampling=WARM), ALL - SCORES),
        (replaced(BASE, "rl", algorithm=algorithm_named("gspo")), ALL),
        (replaced(BASE, "evaluation", answers=(AnswerSet(2, WARM),)), ALL - SCORES - {"reach"}),
        (replaced(BASE, "evaluation", embedder="minilm"), ALL - SCORES - {"reach"}),
        (replaced(BASE, "evaluation", held_out=8), set()),
        (replaced(BASE, "sft", steps=3), STAGES | {"codes", "reach"}),
        (replaced(BASE, "cloning", steps=3), {"stage1_inverse", "stage2_projector", "stage3_joint"}),
        (replaced(BASE, "inverse", steps=3), set()),
        (replaced(BASE, "method", entropy_weight=0.5), set()),
        (replaced(BASE, "method", sft="released"), STAGES | {"codes"}),
        (replaced(BASE, "method", response_only=True, sft_blocks=3), STAGES | {"codes"}),
        (replaced(BASE, "latent", codes=16), set()),
        (replaced(BASE, "model", compute_dtype="bfloat16"), set()),
        (dataclasses.replace(BASE, seed=1), set()),
        (dataclasses.replace(BASE, padding="left"), set()),
        (dataclasses.replace(BASE, bad_rows="skip"), set()),
    ],
)  # fmt: skip
def test_what_differs_is_not_shared(recipe, expected):
    assert shared(recipe) == expected


OTHER_METHOD = {
    **{name: Reading("block") for name in ("learning", "acting", "generating")},
    **{name: 0.5 for name in ("entropy_weight", "nll_weight")},
    **{name: False for name in ("cycle", "project", "text_only")},
    **{"after_padding": True, "gumbel": "off", "train_norm": True, "remat": True},
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Method)])
def test_of_the_method_only_what_stage_5_alone_reads_is_passed_over(name):
    if name in ("sft", "sft_blocks", "response_only"):
        return  # above
    assert not shared(replaced(BASE, "method", **{name: OTHER_METHOD[name]}))


def test_another_task_beside_it_does_not_touch_a_task():
    content = with_content(rows=["paired", "text", "help"])
    assert shared(HELP, content) == {n for n in ALL if "role_play" not in n} - {"reach"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"model": {"w": "z"}}, set()),
        ({"rows": ["paired", "other", "role_play", "help"]}, set()),
        ({"rows": ["paired", "text", "other", "help"]}, {n for n in ALL if "role_play" not in n} - {"reach"}),
        ({"rewards": {"help/evaluation": "x"}}, {n for n in ALL if "help" not in n}),
    ],
)
def test_other_rows_under_the_same_names_are_not_shared(changed, expected):
    assert shared(BASE, with_content(**changed)) == expected


def test_code_that_no_hash_covers_is_not_shared():
    own = tuple(dataclasses.replace(task, reward=FunctionReward(flat)) for task in BASE.tasks)
    recipe = dataclasses.replace(BASE, tasks=own)
    assert set(Shares(recipe, CONTENT, None).planned) == STAGES | {"codes"}


def test_a_key_goes_by_the_arrays_of_the_phases_before(tmp_path):
    devices = make_mesh(devices=jax.devices()[:1])
    shares = Shares(BASE, CONTENT, devices)
    assert shares.key(tmp_path, "stage2_projector") is None, "the phase before is not there"
    assert shares.key(tmp_path, "rl_token_help") is None
    keys = []
    for number, value in enumerate((1.0, 1.0, 2.0)):
        save_checkpoint(tmp_path / str(number) / "stage1_inverse", {"w": value}, {"seconds": number})
        keys.append(shares.key(tmp_path / str(number), "stage2_projector"))
    assert keys[0] == keys[1] != keys[2]
    assert shares.key(tmp_path / "0", "stage1_inverse") == shares.key(tmp_path / "2", "stage1_inverse")


def test_runs_of_the_same_rows_build_their_data_once(tmp_path):
    first, second, other, own = (tmp_path / "grid" / "runs" / name / "data" for name in ("a", "b", "c", "d"))
    for folder in (first, second, other, own):
        folder.parent.mkdir(parents=True)
    own.mkdir()
    store = tmp_path / "grid" / "phases"
    for folder, rows in ((first, ["x", "y"]), (second, ["x", "y"]), (other, ["x", "z"]), (own, ["x", "y"])):
        share_data(folder, store, {"rows": rows, "model": {folder.parent.name: "of its own"}})
    (first / "built").write_text("rows")
    share_data(first, store, {"rows": ["x", "z"]})  # a run that goes on
    assert (second / "built").read_text() == "rows"
    assert not any((folder / "built").exists() for folder in (other, own))
    assert not own.is_symlink()
    (tmp_path / "grid").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "runs" / "b" / "data" / "built").read_text() == "rows"
