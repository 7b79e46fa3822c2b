"""Recipes of programs that cannot be imported here are read all the same: what is not there is a stand-in."""

import dataclasses
import json
import sys

import pytest

from lam_jax.rewards.functions import FunctionReward
from lam_jax.values import StandInError, ValueFormError, decode, encode, fingerprint
from tests.end_to_end.quick_demo import quick_recipe

RECIPE = quick_recipe(0)


def elsewhere(text: str) -> dict:
    """The quick recipe as JSON, its reward a function of a script, with the given name."""
    values = json.loads(RECIPE.to_json())
    reward = {"$type": "lam_jax.rewards.functions:FunctionReward", "function": {"$function": text}}
    values["tasks"][0]["reward"] = reward
    return values


@pytest.mark.parametrize("name", ["__main__:no_such_score", "a_script_of_mine:score", "lam_jax.no_such_module:f"])
def test_what_is_not_there_is_a_stand_in_that_says_so_when_it_is_used(name):
    values = elsewhere(name)
    with pytest.raises(ValueFormError, match="there is no"):
        type(RECIPE).from_json(json.dumps(values))
    found = type(RECIPE).from_json(json.dumps(values), stand_ins=True)
    assert found.latent == RECIPE.latent
    assert found.tasks[0].prompt_lengths == RECIPE.tasks[0].prompt_lengths
    with pytest.raises(StandInError, match=rf"recipe.tasks\[0\].reward.function: '{name}' is needed here"):
        found.tasks[0].reward.function([], [])


def test_a_recipe_with_stand_ins_has_the_json_and_the_fingerprint_of_the_recipe_itself():
    values = elsewhere("a_script_of_mine:score")
    values["tasks"][0]["rows"] = {"$type": "a_script_of_mine:Rows", "file": "rows.json", "n": [1, {"a": None}]}
    found = decode(values, "recipe", stand_ins=True)
    assert json.loads(found.to_json()) == values
    assert found.fingerprint() == fingerprint(decode(values, "recipe", stand_ins=True))
    assert encode(dataclasses.replace(found, seed=1))["tasks"] == values["tasks"]
    with pytest.raises(StandInError, match=r"recipe.tasks\[0\].rows: 'a_script_of_mine:Rows' is needed"):
        found.tasks[0].rows.read(None, "train")


def test_a_script_is_not_run_again_because_a_recipe_names_it(tmp_path, monkeypatch):
    (tmp_path / "my_training.py").write_text("raise SystemExit('trains again')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    decode(elsewhere("my_training:score"), "recipe", stand_ins=True)
    assert "my_training" not in sys.modules


def test_what_is_imported_already_is_used():
    function = {"$function": f"{__name__}:elsewhere"}
    reward = {"$type": "lam_jax.rewards.functions:FunctionReward", "function": function}
    assert decode(reward, stand_ins=True) == FunctionReward(elsewhere)


def test_checks_that_would_use_a_stand_in_are_left_out():
    values = elsewhere("a_script_of_mine:score")
    values["rl"]["task_algorithms"] = {"help": {"$type": "a_script_of_mine:Mine", "name": "mine"}}
    found = decode(values, "recipe", stand_ins=True)
    assert found.seed == RECIPE.seed
    assert found.name == "demo"


def test_a_field_that_is_wrong_is_still_refused():
    values = elsewhere("a_script_of_mine:score")
    values["latent"]["codes"] = 0
    with pytest.raises(ValueFormError, match=r"recipe.latent: LatentConfig.codes must be at least 1"):
        decode(values, "recipe", stand_ins=True)
