"""`lam-jax train RECIPE`."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from lam_jax.cli.recipes import call_with, flags_of, recipe_function, shipped_recipes
from lam_jax.cli.watching import WatchingFlags

Part = Literal["cycle", "projector", "text-only"]
SFTRecipe = Literal["released", "guided", "joint", "learn"]
Gumbel = Literal["on", "off", "annealed"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a recipe: stages 1 to 6, evaluation and a report; `lam-jax train RECIPE --help` lists its flags.

    RECIPE is the name of a shipped recipe, or a Python file with a function `recipe(...)` that returns a Recipe. A run
    that was interrupted goes on where it stopped.
    """

    recipe: Annotated[str, tyro.conf.Positional]
    """A shipped recipe, or path/file.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags(WatchingFlags):
    """The run."""

    out: Path
    """Run folder: report, metrics, checkpoints. Several processes share it."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A smoke run: every stage for a few steps, with small batches and short rows."""
    codes: int | None = None
    """Number of latent actions. Default: the recipe's."""
    without: tuple[Part, ...] = ()
    """Parts of the method that are left out, as in the paper's ablations."""
    sft_recipe: SFTRecipe | None = None
    """How stage 5 fine-tunes the latent agent (docs/method.md): by the policy's own codes; by those of the inverse
    model, with the policy cloned after it (guided) or beside it (joint); or as joint, while inverse model, codebook and
    merge go on learning. Default: the recipe's."""
    gumbel: Gumbel | None = None
    """Noise on the choice of codes while they are learned: on, off, or annealed to none over a stage. Default: the
    recipe's."""
    rollout_weights: Literal["same", "bfloat16", "int8"] | None = None
    """How RL's rollouts hold the frozen backbone: as everything else, or in fewer bits, which is faster to read
    (docs/method.md); only with --space latent or hybrid. Scores are always of the full weights. Default: the recipe's,
    same."""
    mesh: Literal["auto"] | tuple[int, int, int] = "auto"
    """Sizes of the axes data, fsdp and tensor; auto: chosen for the model, the batch and all devices. A run may be
    resumed on another mesh."""
    rollout_mesh: str = "auto"
    """Sizes of the mesh that answers are drawn on, over the same devices, e.g. data=1,wide=4,tensor=4 or 1,1,16; same:
    that of training; auto: where the devices' figures are known, the one that costs least (docs/pods.md)."""
    save_every: int = 100
    """Optimiser updates between two checkpoints inside a phase; 0: only when the run is asked to stop."""
    profile: str | None = None
    """Phase of which three steps are traced into OUT/profile."""
    bad_rows: Literal["fail", "skip"] | None = None
    """What a row does that cannot be read, or whose picture cannot: fail ends the run; skip leaves the row out, counts
    it and lists it in OUT/skipped_rows.jsonl. A run that ended so may go on with skip. Default: the recipe's, fail."""
    max_bad_share: float | None = None
    """Of the rows of a split that may be skipped; above it the run ends. Default: the recipe's, 0.5."""
    workers: Literal["auto"] | int = "auto"
    """Processes that decode pictures; 0: none besides the run's own. auto: none on a CPU, whose cores the model needs,
    else up to 8. No result depends on it."""
    start: Path | None = None
    """Another run, whose learned actions this one begins with: its stages 1 to 4 are taken over, not trained again.
    Only where the rows and settings of these stages are the same, as in a recipe with another task or reward."""
    changed_reward: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Goes on although the reward's file has changed since the run began; OUT/config.json keeps both hashes."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Prints the phases, sizes, memory and an estimate of the time, and trains nothing."""

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.without)) < len(self.without):
            raise ValueError(f"--without: found {list(self.without)}, expected different parts.")
        if self.save_every < 0:
            raise ValueError(f"--save-every: found {self.save_every}, expected a number that is not negative.")
        if self.mesh != "auto" and min(self.mesh) < 1:
            sizes = " ".join(map(str, self.mesh))
            raise ValueError(f"--mesh: found {sizes}, expected 'auto' or three sizes of 1 or more: data, fsdp, tensor.")
        self.rollouts_on()
        if self.max_bad_share is not None and not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"--max-bad-share: found {self.max_bad_share}, expected a share, 0 to 1.")
        if self.workers != "auto" and self.workers < 0:
            raise ValueError(f"--workers: found {self.workers}, expected 'auto' or a number that is not negative.")
        if self.codes is not None and self.codes < 1:
            raise ValueError(f"--codes: found {self.codes}, expected at least 1.")

    def rollouts_on(self) -> Any:
        """`rollout_mesh` as `run_recipe` takes it."""
        from lam_jax.parallel.choose_rollout_mesh import parse_rollout_mesh

        return self.rollout_mesh if self.rollout_mesh in ("auto", "same") else parse_rollout_mesh(self.rollout_mesh)


def list_recipes(console: Console) -> None:
    """Prints the names of the shipped recipes."""
    console.print("usage: lam-jax train RECIPE --out RUN [flags]\n", highlight=False)
    console.print(Train.__doc__, highlight=False, markup=False)
    console.print("Shipped recipes:", highlight=False)
    for name, text in shipped_recipes().items():
        console.print(f"  {name:10} {text}", soft_wrap=True, highlight=False, markup=False)


def parse(name: str, args: Sequence[str]) -> tuple[Any, RunFlags]:
    """The recipe that flags ask for, and the run's flags.

    Raises:
        ValueError: no such recipe, or a bad value.
        SystemExit: bad flags, or --help.
    """
    function = recipe_function(name)
    flags = flags_of(function, [field.name for field in dataclasses.fields(RunFlags)])
    both = dataclasses.make_dataclass(
        "Flags", [("recipe", flags), ("run", RunFlags)], namespace={"__doc__": f"Recipe {name}: {flags.__doc__}"}
    )
    chosen: Any = tyro.cli(both, prog=f"lam-jax train {name}", args=list(args), config=(tyro.conf.OmitArgPrefixes,))
    return _changed(call_with(function, chosen.recipe), chosen.run), chosen.run


def _changed(recipe: Any, run: RunFlags) -> Any:
    from lam_jax.recipe import Recipe
    from lam_jax.recipes.ablations import with_codes, without
    from lam_jax.recipes.quick import quick

    if not isinstance(recipe, Recipe):
        raise ValueError(f"The recipe's function gave a {type(recipe).__name__}, expected a lam_jax.Recipe.")
    for part in run.without:
        recipe = without(recipe, part)
    switches = {name: value for name, value in (("sft", run.sft_recipe), ("gumbel", run.gumbel)) if value is not None}
    recipe = dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, **switches))
    policy = {"bad_rows": run.bad_rows, "max_bad_share": run.max_bad_share}
    recipe = dataclasses.replace(recipe, **{name: value for name, value in policy.items() if value is not None})
    if run.rollout_weights is not None:
        rl = dataclasses.replace(recipe.rl, rollout_weights=run.rollout_weights)
        recipe = dataclasses.replace(recipe, rl=rl)
    if run.codes is not None:
        recipe = with_codes(recipe, run.codes)
    return quick(recipe) if run.quick else recipe


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """A recipe that is to be run, or nothing: then the recipes are listed."""

    recipe: Any
    flags: RunFlags | None = None
    code: int = 0

    def run(self) -> int:
        """Runs or resumes; returns the exit code."""
        if self.flags is None:
            list_recipes(Console())
            return self.code
        from lam_jax.hosts.quick_compilation import compile_quickly
        from lam_jax.hosts.start import start_process
        from lam_jax.pipeline import run_recipe

        flags = self.flags
        if flags.quick or self.recipe.name == "demo":
            compile_quickly()
        start_process()
        if flags.dry_run:
            _show_plan(self.recipe, flags)
            return 0
        run_recipe(
            self.recipe,
            flags.out,
            mesh=flags.mesh,
            save_every=flags.save_every,
            profile=flags.profile,
            changed_reward=flags.changed_reward,
            watching=flags.watching(),
            workers=_workers(flags.workers),
            start=flags.start,
            rollout_mesh=flags.rollouts_on(),
        )
        return 0


def _workers(asked: int | Literal["auto"]) -> int:
    """Processes that decode pictures beside this one; jax must have started."""
    if asked != "auto":
        return asked
    import jax

    if jax.default_backend() == "cpu":
        return 0
    return max(1, min(8, (os.cpu_count() or 1) // 4))


def _show_plan(recipe: Any, flags: RunFlags) -> None:
    from lam_jax.aot.plan import show_plan
    from lam_jax.pipeline import opened_apart
    from lam_jax.pipeline.judge_cost import judge_cost_lines

    with opened_apart(recipe, flags.mesh, flags.rollouts_on()) as resources:
        show_plan(resources, Console())
        for line in judge_cost_lines(resources):
            Console().print(line, soft_wrap=True, highlight=False, markup=False)


def train_command(args: Sequence[str]) -> TrainCommand:
    """What `lam-jax train` is to do with the arguments after it; raises what `parse` raises."""
    if not args or args[0].startswith("-"):
        return TrainCommand(None, code=0 if args and args[0] in ("-h", "--help") else 2)
    return TrainCommand(*parse(args[0], args[1:]))
