"""The pipeline of a recipe: `run_recipe` runs or resumes all of it, the others its parts.

learn_actions   stages 1 to 4: codes, world model, policy, from rows without action labels
fine_tune       stage 5 on a task
reinforce       stage 6 on a task
evaluate        scores, diversity and sample answers
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lam_jax.hosts.consistency import code_hash, require_consistent, require_consistent_weights, versions
from lam_jax.hosts.start import start_process
from lam_jax.parallel.multihost import is_first
from lam_jax.parallel.parked import park
from lam_jax.parallel.processes import whole_mesh
from lam_jax.pipeline.choose import MeshShape, mesh_for
from lam_jax.pipeline.measures import measure_codes, measure_control
from lam_jax.pipeline.resources import Resources, content_of, is_of_reward
from lam_jax.pipeline.results import Scores, collect, write_results
from lam_jax.pipeline.stages import learn_actions
from lam_jax.pipeline.tasks import evaluate, fine_tune, reinforce
from lam_jax.recipe import Recipe
from lam_jax.report.report import write_report
from lam_jax.report.tables import summary_tables
from lam_jax.runs.run import Run
from lam_jax.train.spaces import SPACES
from lam_jax.values import fingerprint

__all__ = ["Resources", "evaluate", "fine_tune", "learn_actions", "open_run", "opened_apart", "reinforce", "run_recipe"]


@contextlib.contextmanager
def open_run(
    recipe: Recipe,
    out: str | Path,
    mesh: MeshShape = (1, 1, 1),
    save_every: int = 0,
    profile: str | None = None,
    changed_reward: bool = False,
) -> Iterator[tuple[Run, Resources]]:
    """A run folder that belongs to `recipe`, its rows and its model, and the opened recipe; arguments: `run_recipe`.

    A new run reads all rows and tries the rewards before anything is trained (`Resources.try_out`).

    Raises:
        DataError: rows that cannot be used.
        OtherConfigurationError: the folder belongs to another recipe, to other rows or to another model.
        ProcessesDifferError: the processes of the run have other code, recipes, rows or models.
    """
    start_process()
    content = content_of(recipe)
    require_consistent(
        {
            "code": code_hash(),
            "versions": versions(),
            "configuration": recipe.fingerprint(),
            "data": fingerprint(content),
        }
    )
    chosen = mesh_for(recipe) if mesh == "auto" else None
    devices = whole_mesh(chosen.shape if chosen else mesh)  # pyright: ignore[reportArgumentType]
    may_change = is_of_reward if changed_reward else None
    identity = {"recipe": recipe, "content": content}
    with Run(out, identity, save_every=save_every, profile=profile, may_change=may_change) as run:
        if chosen and devices.size > 1:
            run.progress.say(str(chosen))
        opened: list[Resources] = []

        def open_resources() -> tuple[None, dict[str, Any]]:
            opened.append(Resources.open(recipe, run.folder / "data", devices))
            opened[0].try_out()
            return None, {}

        run.phase("data", open_resources)
        yield run, opened[0] if opened else Resources.open(recipe, run.folder / "data", devices)


@contextlib.contextmanager
def opened_apart(recipe: Recipe, mesh: MeshShape = (1, 1, 1)) -> Iterator[Resources]:
    """The opened recipe without a run: its rows are read and its rewards tried in a folder that is deleted.

    Raises:
        DataError: rows that cannot be used.
    """
    start_process()
    devices = whole_mesh(mesh_for(recipe).shape if mesh == "auto" else mesh)
    with tempfile.TemporaryDirectory() as folder:
        resources = Resources.open(recipe, Path(folder), devices)
        resources.try_out()
        yield resources


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    mesh: MeshShape = (1, 1, 1),
    save_every: int = 0,
    profile: str | None = None,
    changed_reward: bool = False,
) -> dict[str, Any]:
    """Runs or resumes all of a recipe in `out`, writes the report, and returns the results, on the first process.

    Args:
        recipe: everything that the results depend on.
        out: run folder; several processes share it.
        mesh: data, fsdp, tensor; all devices of all processes where there are several. "auto": chosen for the recipe.
            A run may be resumed on another.
        save_every: optimiser updates between two checkpoints inside a phase; 0: only when the run is asked to stop.
        profile: phase of which a few steps are traced.
        changed_reward: goes on although the code of a reward has changed since the run began; config.json keeps both
            hashes.

    Raises:
        LamJaxError: see `lam_jax.errors`.
        DataError: rows that cannot be read.
    """
    with open_run(recipe, out, mesh, save_every, profile, changed_reward) as (run, resources):
        agent = resources.base_agent()
        require_consistent_weights(agent)
        base: dict[str, Any] = {}
        if (measure := recipe.evaluation.backbone) is not None:
            base = run.phase("base_model", lambda: (None, measure(resources, agent))).record
        agent = learn_actions(run, resources, agent)
        latent = run.phase("codes", lambda: (None, measure_codes(resources, agent))).record
        learned = park(agent, agent.backbone.config.dtype)
        scores: Scores = {}
        speed: list[dict[str, Any]] = []
        control: list[float] = []
        for task in recipe.tasks:
            for space in (SPACES[name] for name in recipe.spaces):
                tuned = fine_tune(run, resources, task, space, learned())
                if space.coded:
                    record = run.phase(
                        f"control_{task.name}",
                        lambda task=task, tuned=tuned: (None, measure_control(resources, task, tuned)),
                    ).record
                    control.append(record["random_action_kl"])
                scores[task.name, space.name, "sft"] = evaluate(run, resources, task, space, tuned, "sft")
                reinforced, times = reinforce(run, resources, task, space, tuned)
                scores[task.name, space.name, "rl"] = evaluate(run, resources, task, space, reinforced, "rl")
                speed.append(times)
        if control:
            latent = latent | {"random_action_kl_after_sft": min(control)}
        results: dict[str, Any] = {}
        if is_first():
            results = collect(run, resources, base, latent, scores, speed)
            write_results(run.folder, results)
        report = run.phase("report", lambda: (None, {"path": write_report(run.folder).name if is_first() else ""}))
        for table in summary_tables(results) if run.progress.enabled else ():
            run.progress.console.print(table)
        run.progress.say(f"report: {run.folder / report.record['path']}")
        return results
