"""`lam-jax train`: recipes by name and file, their parameters as flags, and what is refused before any work."""

import dataclasses
import sys

import pytest

from lam_jax.cli import main
from lam_jax.cli.train import parse
from lam_jax.data.layouts import RowParser
from lam_jax.recipe import Recipe
from lam_jax.recipes import demo, own
from lam_jax.runs.watching import Watching
from tests.cli.test_cli import call

OWN = ["--task", "t.jsonl", "--paired", "p.json", "--out", "runs/x"]


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str, name: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return str(tmp_path / f"{name}.py")

    return write


def test_recipes_are_listed_with_what_they_are(capsys):
    code, out, _ = call(["train", "--help"], capsys)
    assert code == 0
    for part in ("demo", "own", "paper", "official", "Your own rows: a paired file", "lam-jax train RECIPE"):
        assert part in out
    assert call(["train"], capsys)[0] == 2
    assert "train" in call(["--help"], capsys)[1]


def test_parameters_of_the_recipe_are_flags_with_their_help(capsys):
    code, out, _ = call(["train", "own", "--help"], capsys)
    assert code == 0
    for part in ("--task", "--reward", "--space", "--rl-steps", "--quick", "--without", "--mesh", "(required)"):
        assert part in out
    assert "Most tokens of an answer. Default: 256; 64 with the small model." in out
    assert "--sizes" not in call(["train", "demo", "--help"], capsys)[1]


def test_rollout_weights_are_set_in_any_recipe_whose_spaces_can_have_them():
    recipe, _ = parse("demo", ["--out", "x", "--space", "latent", "hybrid", "--rollout-weights", "int8"])
    made = demo.recipe(space=("latent", "hybrid"))
    assert recipe == dataclasses.replace(made, rl=dataclasses.replace(made.rl, rollout_weights="int8"))
    with pytest.raises(ValueError, match=r"rollout_weights is 'int8' in the space 'token'.*--space latent"):
        parse("own", [*OWN, "--rollout-weights", "int8"])


def test_the_mesh_of_rollouts_is_a_flag_of_the_run(capsys):
    for text, expected in (("same", "same"), ("wide=2,tensor=4", (1, 1, 2, 4)), ("2,1,4", (2, 1, 4))):
        _, run = parse("demo", ["--out", "x", "--rollout-mesh", text])
        assert run.rollouts_on() == expected
    assert parse("demo", ["--out", "x"])[1].rollouts_on() == "auto"
    code, out, err = call(["train", "demo", "--out", "x", "--rollout-mesh", "big"], capsys)
    assert code == 2
    assert "--rollout-mesh: found 'big', expected 'auto'" in out + err


def test_flags_make_the_recipe_that_python_makes():
    given = [*OWN, "--text", "x.json", "--space", "token", "--algorithm", "dapo", "--image", "56", "84"]
    given += ["--validate-every", "5", "--shown", "2", "--log", "wandb"]
    recipe, run = parse("own", [*given, "--rl-steps", "7", "--seed", "3", "--mesh", "2", "1", "1"])
    expected = own.recipe(
        task="t.jsonl", paired="p.json", text="x.json", space=("token",), algorithm="dapo", image=(56, 84), rl_steps=7,
        validate_every=5, seed=3,
    )  # fmt: skip
    assert recipe == expected
    assert (str(run.out), run.mesh, run.save_every) == ("runs/x", (2, 1, 1), 100)
    assert run.watching() == Watching(shown=2, sinks=("wandb",))
    assert parse("demo", ["--out", "x"])[0] == demo.recipe()
    assert parse("demo", ["--out", "x"])[1].mesh == "auto"


def test_columns_and_folders_of_rows_are_flags():
    recipe, _ = parse(
        "own", [*OWN, "--text", "x.json", "--facts", "topic", "source", "--picture-folders", "/data/coco"]
    )
    parser = RowParser(("topic", "source"), ("/data/coco",))
    assert recipe.tasks[0].rows.parse == recipe.paired.rows.parse == parser
    assert recipe.text_only.rows.parse == dataclasses.replace(parser, reference=True, tags="text alone")
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_every_recipe_can_be_ablated_resized_and_made_quick():
    recipe, _ = parse("demo", ["--out", "x", "--without", "cycle", "text-only", "--codes", "16", "--quick"])
    assert (recipe.method.cycle, recipe.method.text_only, recipe.latent.codes) == (False, False, 16)
    assert (recipe.inverse.steps, recipe.sft.steps, recipe.rl.steps) == (3, 3, 2)
    assert recipe.tasks[0].answer_length == 32
    assert "quick" in recipe.name
    assert recipe.paired.rows.sizes.paired == {"train": 128, "test": 128, "caption_test": 128}
    assert recipe.tasks[0].rows.sizes == recipe.paired.rows.sizes
    own_rows, _ = parse("own", [*OWN, "--quick", "--sft", "s.json"])
    assert own_rows.tasks[0].rows.sources["rl"].limit == own_rows.paired.rows.limit == 128


def test_ways_of_stage_five_and_the_noise_are_flags_of_every_recipe():
    recipe, _ = parse("demo", ["--out", "x"])
    assert (recipe.method.sft, recipe.method.gumbel) == ("learn", "on")
    recipe, _ = parse("demo", ["--out", "x", "--sft-recipe", "guided", "--gumbel", "annealed", "--without", "cycle"])
    assert (recipe.method.sft, recipe.method.gumbel, recipe.method.cycle) == ("guided", "annealed", False)
    recipe, _ = parse("own", [*OWN, "--sft", "s.json", "--gumbel", "off"])
    assert (recipe.method.sft, recipe.method.gumbel) == ("joint", "off")


def test_a_file_of_ones_own_is_a_recipe(recipe_file):
    path = recipe_file(
        "import dataclasses\n"
        "from lam_jax.recipes import own\n"
        "def recipe(rows: str, steps: int = 5, scale: float = 0.5, hook=None):\n"
        '    """Mine.\n\n    Args:\n        rows: My rows.\n    """\n'
        "    made = own.recipe(task=rows, paired=rows, rl_steps=steps)\n"
        "    return dataclasses.replace(made, name=f'mine {scale}')\n",
        "made_recipe",
    )
    recipe, _ = parse(path, ["--rows", "r.json", "--steps", "2", "--out", "x"])
    assert (recipe.name, recipe.rl.steps) == ("mine 0.5", 2)


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["train", "demmo", "--out", "x"], ["'demmo'", "demo", "a file that ends in .py"]),
        (["train", "gone.py", "--out", "x"], ["gone.py", "there is no file"]),
        (["train", "own", *OWN, "--rewards", "x"], ["--rewards"]),
        (["train", "own", *OWN, "--reward", "gone.py:f"], ["gone.py", "there is no file"]),
        (["train", "own", *OWN, "--epochs", "0"], ["epochs"]),
        (["train", "own", *OWN, "--space", "codes"], ["codes"]),
        (["train", "own", *OWN, "--codes", "0"], ["--codes: found 0"]),
        (["train", "own", *OWN, "--sft-recipe", "lern"], ["--sft-recipe", "'lern'", "learn"]),
        (["train", "own", *OWN, "--save-every", "-3"], ["--save-every: found -3"]),
        (["train", "own", *OWN, "--mesh", "2", "2"], ["--mesh"]),
        (["train", "own", *OWN, "--shown", "0"], ["--shown: found 0"]),
        (["train", "own", "--out", "x"], ["--task", "--paired"]),
        (["train", "own", *OWN[:-2]], ["--out"]),
    ],
)
def test_bad_flags_end_with_code_2_and_are_named(args, parts, capsys):
    code, out, err = call(args, capsys)
    assert code == 2
    for part in parts:
        assert part in out + err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def recipe(out: str): ...\n", "'out' of the recipe is a flag of every recipe"),
        ("def recipe(hook: object): ...\n", "'hook' of the recipe is no flag's type; give it a default"),
        ("def recipe(): return 3\n", "gave a int, expected a lam_jax.Recipe"),
        ("x = 3\n", "has no function `recipe`"),
        ("import nothing_of_this_name\n", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(recipe_file, text, message, capsys):
    path = recipe_file(text, f"no_recipe_{abs(hash(text))}")
    code, _, err = call(["train", path, "--out", "x"], capsys)
    assert code == 2
    assert message in err


def test_main_is_what_the_command_calls():
    assert main(["train", "--help"]) == 0
