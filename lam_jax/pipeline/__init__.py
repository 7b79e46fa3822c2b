"""The pipeline of a recipe: `run_recipe` runs or resumes all of it, the others its parts.

learn_actions   stages 1 to 4: codes, world model, policy, from rows without action labels
fine_tune       stage 5 on a task
reinforce       stage 6 on a task
evaluate        scores, diversity and sample answers
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from lam_jax.hosts.consistency import code_hash, require_consistent, require_consistent_weights, versions
from lam_jax.parallel.mesh import make_mesh
from lam_jax.parallel.multihost import barrier, from_first, is_first
from lam_jax.parallel.parked import park
from lam_jax.parallel.processes import whole_mesh
from lam_jax.pipeline.finished import RESULTS, finished_results
from lam_jax.pipeline.measures import measure_codes, measure_control
from lam_jax.pipeline.phases import require_trained_phase
from lam_jax.pipeline.resources import Resources, content_of
from lam_jax.pipeline.results import Scores, collect, environment, write_results
from lam_jax.pipeline.stages import learn_actions
from lam_jax.pipeline.tasks import evaluate, fine_tune, reinforce
from lam_jax.recipe import Recipe
from lam_jax.report.current import refresh_report
from lam_jax.report.tables import summary_tables
from lam_jax.runs.run import Run
from lam_jax.train.spaces import SPACES
from lam_jax.values import fingerprint

__all__ = ["Resources", "evaluate", "fine_tune", "learn_actions", "open_run", "reinforce", "run_recipe"]


@contextlib.contextmanager
def open_run(
    recipe: Recipe,
    out: Path,
    mesh: tuple[int, int, int] = (1, 1, 1),
    save_every: int = 0,
    profile: str | None = None,
) -> Iterator[tuple[Run, Resources]]:
    """A run folder that belongs to `recipe`, its rows and its model, and the opened recipe; arguments: `run_recipe`.

    A new run reads all rows and tries the rewards before anything is trained (`Resources.try_out`).

    Raises:
        BadSettingError: a mesh that the devices do not make, or another argument that cannot be used.
        DataError: rows that cannot be used.
        OtherConfigurationError: the folder belongs to another recipe, to other rows or to another model.
        ProcessesDifferError: the processes of the run have other code, recipes, rows or models.
    """
    make_mesh(mesh)
    config = _consistent_config(recipe)
    devices = whole_mesh(mesh)
    with Run(out, config, save_every=save_every, profile=profile, environment=environment) as run:
        yield run, _open_resources(run, recipe, devices)


def _consistent_config(recipe: Recipe) -> dict[str, Any]:
    """What a run's folder belongs to, the same on all processes."""
    content = content_of(recipe)
    require_consistent(
        {
            "code": code_hash(),
            "versions": versions(),
            "configuration": recipe.fingerprint(),
            "data": fingerprint(content),
        }
    )
    return {"recipe": recipe, "content": content}


def _open_resources(run: Run, recipe: Recipe, devices: Mesh) -> Resources:
    opened: list[Resources] = []

    def open_resources() -> tuple[None, dict[str, Any]]:
        opened.append(Resources.open(recipe, run.folder / "data", devices))
        opened[0].try_out()
        return None, {}

    run.phase("data", open_resources)
    return opened[0] if opened else Resources.open(recipe, run.folder / "data", devices)


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    mesh: tuple[int, int, int] = (1, 1, 1),
    save_every: int = 0,
    profile: str | None = None,
) -> dict[str, Any]:
    """Runs or resumes all of a recipe in `out`, writes the report, and returns the results, on the first process.

    Of a finished run the results are read; its report is written again where it is missing or not of these results.

    Args:
        recipe: everything that the results depend on.
        out: run folder; several processes share it.
        mesh: data, fsdp, tensor; all devices of all processes where there are several. A run may be resumed on another.
        save_every: optimiser updates between two checkpoints inside a phase; 0: only when the run is asked to stop.
        profile: phase of which a few steps are traced.

    Raises:
        BadSettingError: an argument that cannot be used.
        LamJaxError: see `lam_jax.errors`.
        DataError: rows that cannot be read.
    """
    require_trained_phase(recipe, profile)
    if new := not from_first(int((Path(out) / RESULTS).exists())):
        make_mesh(mesh)  # a mistake in the flag shows before rows and model are read
    config = _consistent_config(recipe)
    devices = whole_mesh(mesh) if new else None
    with Run(out, config, save_every=save_every, profile=profile, environment=environment) as run:
        results = finished_results(run, recipe) if is_first() else None
        if from_first(int(results is not None)):
            run.progress.say("All phases are complete.")
        else:
            results = _go_through(run, recipe, devices or whole_mesh(mesh))
        if is_first():
            path = refresh_report(run.folder)
            for table in summary_tables(results or {}) if run.progress.enabled else ():
                run.progress.console.print(table)
            run.progress.say(f"report: {path}")
        barrier("report")
        return results or {}


def _go_through(run: Run, recipe: Recipe, devices: Mesh) -> dict[str, Any]:
    """Runs or restores every phase and collects the results, on the first process."""
    resources = _open_resources(run, recipe, devices)
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
    if not is_first():
        return {}
    results = collect(run, resources, base, latent, scores, speed)
    write_results(run.folder, results)
    return results
