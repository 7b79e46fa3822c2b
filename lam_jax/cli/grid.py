"""`lam-jax grid`."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from lam_jax.cli.recipes import flag_of, flags_of, module_at, recipe_function
from lam_jax.cli.watching import WatchingFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridCommand(WatchingFlags):
    """Runs recipes along axes, a cell for each combination of values, and keeps a small result of each.

    lam-jax grid demo --axes seed=0,1,2 algorithm=grpo,dr_grpo spaces=token,latent task=role_play --out runs/grid

    An axis is a flag of the recipe (`lam-jax train RECIPE --help`), or a field of a Recipe by its path, such as
    method.sft or rl.steps. What cells have in common is trained once. A cell whose result is there is not run again; a
    cell that fails is reported and the next one begins; after Ctrl-C the same command goes on. `lam-jax table`
    compares the results.
    """

    recipes: tyro.conf.Positional[tuple[str, ...]]
    """Shipped recipes, or files with a function `recipe`; or one file with a `Grid` named GRID."""
    axes: tuple[str, ...] = ()
    """NAME=VALUE,VALUE of each axis; a value that is several things joins them by +, as task=role_play+help. The first
    axis changes slowest."""
    set: tuple[str, ...] = ()
    """NAME=VALUE of flags and fields that all cells share."""
    out: Path = Path("runs/grid")
    """Folder of the cells' runs and of the phases that they share."""
    results: Path | None = None
    """Folder of the results, a small file a cell; a copy of it lets another machine go on. Default: OUT/results."""
    only: tuple[str, ...] = ()
    """Cells that are run, also if they are done; no others are."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Prints the cells and about how long they will take, and runs nothing."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A smoke run of each cell, see `lam-jax train --quick`."""
    mesh: Literal["auto"] | tuple[int, int, int] = "auto"
    """Sizes of the axes data, fsdp and tensor; auto: chosen for each cell and all devices."""
    save_every: int = 100
    """Optimiser updates between two checkpoints inside a phase; 0: only when the run is asked to stop."""

    def __post_init__(self):
        super().__post_init__()
        if not self.recipes:
            raise ValueError("grid: found no recipe, expected names or files, for example: lam-jax grid demo --axes ..")
        if self.save_every < 0:
            raise ValueError(f"--save-every: found {self.save_every}, expected a number that is not negative.")
        if self.mesh != "auto" and min(self.mesh) < 1:
            sizes = " ".join(map(str, self.mesh))
            raise ValueError(f"--mesh: found {sizes}, expected 'auto' or three sizes of 1 or more: data, fsdp, tensor.")

    def run(self) -> None:
        """Runs, resumes or lists the grid."""
        from lam_jax.hosts.start import start_process

        grid = grid_of(self.recipes, self.axes, self.set, self.quick)
        console = Console()

        def say(text: str) -> None:
            console.print(text, soft_wrap=True, highlight=False, markup=False)

        start_process()
        from lam_jax.grid.listing import listed
        from lam_jax.grid.run import run_grid

        results = self.out / "results" if self.results is None else self.results
        if self.list:
            for line in listed(grid, results):
                say(line)
            return
        run_grid(
            grid,
            self.out,
            results,
            only=self.only,
            mesh=self.mesh,
            save_every=self.save_every,
            watching=self.watching(),
            command=["lam-jax", *sys.argv[1:]],
            say=say,
        )
        say(f"results: {results}; tables: lam-jax table {results}")


def grid_of(recipes: Sequence[str], axes: Sequence[str], fixed: Sequence[str], quick: bool) -> Any:
    """The grid that flags ask for.

    Raises:
        ValueError: an axis or value that cannot be used, or no such recipe.
        SystemExit: a value that a flag does not take.
    """
    from lam_jax.grid.grid import Grid
    from lam_jax.recipes.quick import quick as made_quick

    if len(recipes) == 1 and recipes[0].endswith(".py") and (found := getattr(module_at(recipes[0]), "GRID", None)):
        if not isinstance(found, Grid):
            raise ValueError(f"{recipes[0]}: GRID is a {type(found).__name__}, expected a lam_jax.Grid.")
        if axes or fixed:
            raise ValueError(f"{recipes[0]} holds a Grid with its axes; found --axes or --set too, expected neither.")
        return dataclasses.replace(found, changed=made_quick) if quick else found
    functions = {Path(name).stem: recipe_function(name) for name in recipes}
    if len(functions) < len(recipes):
        raise ValueError(f"grid: found the recipes {', '.join(recipes)}, expected different names.")
    varied = {name: [parsed(functions, name, v) for v in text.split(",")] for name, text in _pairs("--axes", axes)}
    shared = {name: parsed(functions, name, text) for name, text in _pairs("--set", fixed)}
    name = "_".join(functions) + ("_quick" if quick else "")
    return Grid(name, functions, varied, shared, made_quick if quick else None)


def _pairs(flag: str, words: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name or not text:
            raise ValueError(f"{flag}: found {word!r}, expected NAME=VALUE, as in {flag} seed=0.")
        name = name.replace("-", "_")
        if name in dict(pairs):
            raise ValueError(f"{flag}: found {name!r} twice, expected each name once.")
        pairs.append((name, text))
    return pairs


def parsed(functions: dict[str, Callable[..., Any]], name: str, text: str) -> Any:
    """A value of a flag of the recipes, or of a field of a Recipe, from the command line.

    Raises:
        ValueError: there is no such flag or field, or it is of a kind that has no text.
        SystemExit: not such a value.
    """
    import inspect

    from lam_jax.grid.grid import field_hint

    having = [function for function in functions.values() if name in inspect.signature(function).parameters]
    if having and len(having) < len(functions):
        raise ValueError(f"Axis {name!r} is a flag of some of the recipes {', '.join(functions)}, expected of all.")
    if having:
        hints = {f.name: f.type for f in dataclasses.fields(flags_of(having[0], ()))}
        if name not in hints:
            raise ValueError(f"Axis {name!r} is a parameter of a type that no flag has; write a Grid in a file.")
        hint = hints[name]
    else:
        hint = flag_of(field_hint(name))
        if hint is None:
            raise ValueError(f"Axis {name!r} is a field of a kind that no flag has; name a field inside it.")
    leaf = name.rpartition(".")[2]
    flags = dataclasses.make_dataclass("axis", [(leaf, hint)], frozen=True)
    words = [f"--{leaf.replace('_', '-')}", *text.split("+")]
    if text in ("True", "False"):
        words = [words[0] if text == "True" else f"--no-{leaf.replace('_', '-')}"]
    found: Any = tyro.cli(flags, prog=f"axis {name}", args=words)
    return getattr(found, leaf)
