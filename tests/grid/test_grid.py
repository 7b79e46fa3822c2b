"""Grids as values and from flags: cells, their names, and what is refused."""

import dataclasses

import pytest

from lam_jax.cli.grid import grid_of
from lam_jax.errors import BadSettingError
from lam_jax.grid.grid import Grid
from lam_jax.recipes import demo


def cells(axes, fixed=(), recipes=("demo",), quick=False):
    return grid_of(recipes, axes, fixed, quick).cells()


def test_flags_of_the_recipe_and_fields_of_a_recipe_are_axes():
    found = cells(["seed=0,3", "spaces=latent,token", "task=role_play+help", "method.sft=guided"], ["rl.steps=7"])
    assert [cell.name for cell in found] == [
        "seed0_latent_role_play+help_guided",
        "seed0_token_role_play+help_guided",
        "seed3_latent_role_play+help_guided",
        "seed3_token_role_play+help_guided",
    ]
    recipe = found[2].recipe
    assert (recipe.seed, recipe.spaces, recipe.method.sft, recipe.rl.steps) == (3, ("latent",), "guided", 7)
    assert [task.name for task in recipe.tasks] == ["role_play", "help"]
    assert dict(found[2].axes) == {"seed": 3, "spaces": "latent", "task": "role_play+help", "method.sft": "guided"}
    assert recipe.inverse == demo.recipe().inverse


def test_cells_of_a_quick_grid_are_quick():
    (cell,) = cells(["algorithm=dapo"], quick=True)
    assert (cell.recipe.rl.steps, cell.recipe.rl.algorithm_of("help").name) == (2, "dapo")


def test_several_recipes_and_a_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "made_grid_recipe.py"
    file.write_text(
        "from lam_jax.grid.grid import Grid\nfrom lam_jax.recipes import demo\n"
        "def recipe(seed: int = 0, steps: int = 3):\n    import dataclasses\n"
        "    return dataclasses.replace(demo.recipe(seed), name='mine')\n"
        "GRID = Grid('own', {'mine': recipe}, {'seed': (4, 5)})\n"
    )
    assert [cell.name for cell in grid_of([str(file)], (), (), False).cells()] == ["seed4", "seed5"]
    assert [c.name for c in cells(["seed=1"], recipes=("demo", str(file)))] == ["demo_seed1", "made_grid_recipe_seed1"]
    with pytest.raises(ValueError, match="holds a Grid with its axes"):
        grid_of([str(file)], ["seed=1"], (), False)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["seed"], "found 'seed', expected NAME=VALUE"),
        (["seed=1", "seed=2"], "found 'seed' twice"),
        (["lr=1"], r"Axis 'lr': Recipe has no field 'lr', expected a parameter .* 'rl', 'seed'"),
        (["rl.lr=1"], r"Axis 'rl.lr': Recipe.rl has no field 'lr'"),
        (["method=x"], "is a parameter of a type that no flag has"),
        (["rl=x"], "is a field of a kind that no flag has"),
        (["seed=1,1"], r"axis 'seed': found \['seed1', 'seed1'\], expected different values"),
        (["spaces=words"], "Cell words: Recipe.spaces holds 'words', expected some of"),
        (["validate_every=0,-1"], "validate_every is -1, expected at least 0"),
    ],
)
def test_what_cannot_be_a_grid_is_named(axes, message):
    with pytest.raises(ValueError, match=message):
        cells(axes)


def test_an_axis_that_changes_nothing_is_found():
    grid = Grid("x", {"demo": demo.recipe}, {"task": (("help",),), "rl.algorithm": (demo.recipe().rl.algorithm,)})
    assert len(grid.cells()) == 1
    with pytest.raises(BadSettingError, match="have one recipe, expected different ones"):
        Grid("x", {"a": demo.recipe, "b": demo.recipe}, {"seed": (0,)}).cells()
    with pytest.raises(BadSettingError, match="is an axis and fixed"):
        Grid("x", {"demo": demo.recipe}, {"seed": (0,)}, {"seed": 1})


def test_the_reproduction_is_the_papers_core():
    from experiments.arms import AGENTS
    from experiments.reproduce import GRID

    found = GRID.cells()
    assert len(found) == 4 * 2 * len(AGENTS) * 3
    first = found[: len(found) // 6]
    assert {(cell.recipe.seed, cell.recipe.tasks[0].name) for cell in first} == {(0, "role_play")}
    recipes = {cell.axes["agent"]: cell.recipe for cell in first if cell.axes["algorithm"] == "grpo"}
    assert {agent: recipe.spaces for agent, recipe in recipes.items()} == {
        **{"token": ("token",), "latent": ("latent",), "repaired": ("latent",), "hybrid": ("hybrid",)}
    }
    assert {recipe.method.sft for recipe in recipes.values()} == {"joint", "released", "learn"}
    for same in ("inverse", "projector", "joint", "cloning", "sft", "paired", "text_only", "tasks", "model", "latent"):
        assert len({repr(getattr(recipe, same)) for recipe in recipes.values()}) == 1, same
    assert {(r.rl.steps, r.rl.prompts, r.rl.samples, r.evaluation.prompts) for r in recipes.values()} == {
        (60, 16, 8, 96)
    }
    (released,) = [
        a.sampling["token"] for a in recipes["token"].evaluation.answers if a.sampling["token"].temperature < 0.01
    ]
    assert (released.temperature, released.repetition_penalty) == (1e-6, 1.05)


def test_tuning_reads_no_test_row_and_none_of_the_reproductions_seeds():
    from experiments import reproduce, tune

    for cell in tune.GRID.cells():
        (task,) = cell.recipe.tasks
        assert [scored.split for scored in task.tests.values()] == [task.val]
        assert cell.recipe.seed not in reproduce.SEEDS
    rates = {cell.recipe.rl.optimisers[cell.recipe.spaces[0]].lr for cell in tune.GRID.cells()}
    assert rates == set(tune.RATES)


def test_an_ablation_changes_one_thing():
    from experiments.ablations import CHANGES, ablated

    full = ablated(0, "full")
    changed = {name: ablated(0, name) for name in CHANGES if name != "full"}
    fields = [field.name for field in dataclasses.fields(full)]
    for name, recipe in changed.items():
        differing = [field for field in fields if getattr(recipe, field) != getattr(full, field)]
        assert len(differing) == 1, (name, differing)
    assert changed["codes_128"].latent.codes == 128
    assert changed["paired_600"].paired.rows.sizes.paired["train"] == 600
    assert not changed["no_cycle"].method.cycle
    with pytest.raises(ValueError, match="change is 'x', expected one of"):
        ablated(0, "x")
