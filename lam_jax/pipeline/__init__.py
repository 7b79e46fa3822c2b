"""The pipeline of a recipe: `run_recipe` runs or resumes all of it, the others its parts.

learn_actions   stages 1 to 4: codes, world model, policy, from rows without action labels
fine_tune       stage 5 on a task
reinforce       stage 6 on a task
evaluate        scores, diversity and sample answers
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from lam_jax.errors import BadSettingError
from lam_jax.hosts.consistency import code_hash, require_consistent, require_consistent_weights, versions
from lam_jax.hosts.start import start_process
from lam_jax.parallel.choose_mesh import Choice
from lam_jax.parallel.choose_rollout_mesh import RolloutMesh
from lam_jax.parallel.mesh import make_mesh, reshaped
from lam_jax.parallel.multihost import barrier, from_first, is_first
from lam_jax.parallel.parked import park
from lam_jax.parallel.processes import whole_mesh
from lam_jax.pipeline.choose import Meshes, MeshShape, mesh_for, meshes_of
from lam_jax.pipeline.content import content_of, is_of_policy, is_of_reward
from lam_jax.pipeline.finished import RESULTS, finished_results
from lam_jax.pipeline.judge_cost import judge_cost_lines
from lam_jax.pipeline.measures import measure_codes, measure_control
from lam_jax.pipeline.phases import (
    BASE_MODEL,
    CODES,
    DATA,
    REACH,
    control_phase,
    has_reach,
    is_scored,
    reach_after_rl_phase,
    reach_phase,
)
from lam_jax.pipeline.plan import phases_of, require_trained_phase, schedule_of
from lam_jax.pipeline.reach import measure_learned_reach, measure_reach, measure_reach_after_rl, require_reach
from lam_jax.pipeline.resources import Resources
from lam_jax.pipeline.results import Scores, collect, environment, write_results
from lam_jax.pipeline.shares import Shares, share_data
from lam_jax.pipeline.stages import learn_actions
from lam_jax.pipeline.start import begin_from
from lam_jax.pipeline.tasks import evaluate, fine_tune, reinforce
from lam_jax.recipe import Recipe
from lam_jax.report.current import refresh_report
from lam_jax.report.tables import summary_tables
from lam_jax.rewards import judge_store
from lam_jax.rewards.judge import usage_lines
from lam_jax.rewards.judge_config import is_of_operation
from lam_jax.runs.phase_store import PhaseStore
from lam_jax.runs.run import Run
from lam_jax.runs.watching import Watching
from lam_jax.train.spaces import SPACES
from lam_jax.values import fingerprint

__all__ = [
    "Resources",
    "evaluate",
    "fine_tune",
    "learn_actions",
    "open_run",
    "opened_apart",
    "phases_of",
    "reinforce",
    "run_recipe",
]


@contextlib.contextmanager
def open_run(
    recipe: Recipe,
    out: str | Path,
    mesh: MeshShape = (1, 1, 1),
    save_every: int = 0,
    profile: str | None = None,
    changed_reward: bool = False,
    watching: Watching | None = None,
    workers: int = 0,
    start: str | Path | None = None,
    rollout_mesh: RolloutMesh = "auto",
) -> Iterator[tuple[Run, Resources]]:
    """A run folder that belongs to `recipe`, its rows and its model, and the opened recipe; arguments: `run_recipe`.

    A new run reads all rows and tries the rewards before anything is trained (`Resources.try_out`).

    Raises:
        DataError: rows that cannot be used.
        OtherConfigurationError: the folder belongs to another recipe, to other rows or to another model.
        ProcessesDifferError: the processes of the run have other code, recipes, rows or models.
    """
    start_process()
    _refuse(mesh, rollout_mesh)
    stages = begin_from(start, recipe, out)
    with _run(recipe, out, save_every, profile, changed_reward, watching) as run, _judged(run):
        if stages is not None:
            run.share(stages)
        yield run, _open_resources(run, recipe, _devices(run, recipe, mesh, rollout_mesh), workers)


def _refuse(mesh: MeshShape, rollout_mesh: RolloutMesh) -> None:
    """A mistake in the sizes shows before rows and model are read."""
    made = None if mesh == "auto" else make_mesh(mesh)
    if not isinstance(rollout_mesh, str):
        if len(rollout_mesh) not in (3, 4) or min(rollout_mesh) < 1:
            raise BadSettingError(
                f"The mesh of rollouts: found {rollout_mesh}, expected three positive sizes (data, fsdp, tensor) or "
                "four (data, fsdp, wide, tensor)."
            )
        if made is not None:
            reshaped(made, rollout_mesh)


def _run(
    recipe: Recipe,
    out: str | Path,
    save_every: int,
    profile: str | None,
    changed_reward: bool,
    watching: Watching | None,
) -> Run:
    """The folder of a run of the recipe, the same on all processes."""
    content = content_of(recipe)
    require_consistent(
        {
            "code": code_hash(),
            "versions": versions(),
            "configuration": recipe.fingerprint(),
            "data": fingerprint(content),
            "watching": repr(watching or Watching()),
        }
    )
    return Run(
        out,
        {"recipe": recipe, "content": content},
        save_every=save_every,
        profile=profile,
        may_change=lambda place: (
            is_of_operation(place) or is_of_policy(place) or (changed_reward and is_of_reward(place))
        ),
        watching=watching,
        environment=environment,
    )


@contextlib.contextmanager
def _judged(run: Run) -> Iterator[None]:
    """Judges keep their replies and log their calls in the run's folder; a run that goes on pays for none twice."""
    with judge_store.opened(run.folder, jax.process_index()):
        try:
            yield
        finally:
            for line in usage_lines():
                run.progress.say(line)


def _devices(run: Run, recipe: Recipe, mesh: MeshShape, rollout_mesh: RolloutMesh) -> Meshes:
    chosen = mesh_for(recipe) if mesh == "auto" else Choice(mesh, ())
    meshes, other = meshes_of(recipe, whole_mesh(chosen.shape), rollout_mesh)
    if mesh == "auto" and meshes.training.size > 1:
        run.progress.say(str(chosen))
    if other is not None:
        run.progress.say(f"rollouts on {other}")
    return meshes


def _open_resources(run: Run, recipe: Recipe, devices: Meshes, workers: int) -> Resources:
    opened: list[Resources] = []

    def opened_resources() -> Resources:
        resources = Resources.open(recipe, run.folder / "data", devices.training, workers, run.folder)
        resources.rollout_mesh = devices.rollouts
        return resources

    def open_resources() -> tuple[None, dict[str, Any]]:
        opened.append(opened_resources())
        opened[0].try_out()
        for line in judge_cost_lines(opened[0]):
            run.progress.say(line)
        lengths = opened[0].lengths()
        for found in lengths:
            if found.longer:
                run.progress.say(str(found))
        return None, {"lengths": [dataclasses.asdict(found) for found in lengths]}

    run.phase(DATA, open_resources)
    return opened[0] if opened else opened_resources()


@contextlib.contextmanager
def opened_apart(
    recipe: Recipe, mesh: MeshShape = (1, 1, 1), rollout_mesh: RolloutMesh = "auto"
) -> Iterator[Resources]:
    """The opened recipe without a run: its rows are read and its rewards tried in a folder that is deleted.

    Raises:
        DataError: rows that cannot be used.
    """
    start_process()
    devices, _ = meshes_of(recipe, whole_mesh(mesh_for(recipe).shape if mesh == "auto" else mesh), rollout_mesh)
    with tempfile.TemporaryDirectory() as folder:
        resources = Resources.open(recipe, Path(folder), devices.training)
        resources.rollout_mesh = devices.rollouts
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
    watching: Watching | None = None,
    workers: int = 0,
    store: str | Path | None = None,
    start: str | Path | None = None,
    rollout_mesh: RolloutMesh = "auto",
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
        watching: what is shown and logged while it goes on; default: `Watching()`.
        workers: processes that decode pictures, see `lam_jax.data.workers`; no number depends on it. A program that
            asks for them begins with `if __name__ == "__main__":`. 0: this process does.
        store: folder of phases that several runs share, see `lam_jax.pipeline.shares`; every process sees it.
        start: another run, whose stages 1 to 4 this one begins with instead of training them; it learned its actions
            from the same rows, with the same settings. Not beside `store`.
        rollout_mesh: sizes of the mesh that answers are drawn on, over the devices of `mesh`; "same": that mesh;
            "auto": where the devices' figures are known, the one that costs least (`choose_rollout_mesh`). A run may be
            resumed on another.

    Raises:
        BadSettingError: an argument that cannot be used.
        LamJaxError: see `lam_jax.errors`.
        DataError: rows that cannot be read.
    """
    start_process()
    require_trained_phase(recipe, profile)
    if store is not None and start is not None:
        raise BadSettingError("run_recipe: found store and start, expected one of them.")
    stages = begin_from(start, recipe, out)
    if new := not from_first(int((Path(out) / RESULTS).exists())):
        _refuse(mesh, rollout_mesh)
    with _run(recipe, out, save_every, profile, changed_reward, watching) as run, _judged(run):
        # Where several processes run, the devices are checked before one of them waits for the others.
        devices = _devices(run, recipe, mesh, rollout_mesh) if new else None
        results = finished_results(run, recipe) if is_first() else None
        if from_first(int(results is not None)):
            run.progress.say("All phases are complete.")
        else:
            devices = devices or _devices(run, recipe, mesh, rollout_mesh)
            if stages is not None:
                run.share(stages)
            elif store is not None:
                content = content_of(recipe)
                if is_first():
                    share_data(run.folder / DATA, Path(store), content)
                shares = Shares(recipe, content, *devices)
                run.share(PhaseStore(store, lambda phase: shares.key(run.phases, phase)))
            results = _go_through(run, recipe, devices, workers)
        if is_first():
            path = refresh_report(run.folder)
            for table in summary_tables(results or {}) if run.progress.enabled else ():
                run.progress.console.print(table)
            run.progress.say(f"report: {path}")
        barrier("report")
        return results or {}


def _go_through(run: Run, recipe: Recipe, devices: Meshes, workers: int) -> dict[str, Any]:
    """Runs or restores every phase and collects the results, on the first process."""
    resources = _open_resources(run, recipe, devices, workers)
    run.follow(schedule_of(recipe, lambda source, split: len(resources.examples(source, split))))
    agent = resources.base_agent()
    require_consistent_weights(agent)
    base: dict[str, Any] = {}
    if (measure := recipe.evaluation.backbone) is not None:
        base = run.phase(BASE_MODEL, lambda: (None, measure(resources, agent))).record
    agent = learn_actions(run, resources, agent)
    latent = run.phase(CODES, lambda: (None, measure_codes(resources, agent))).record
    reach: list[dict[str, Any]] = []
    if (settings := recipe.evaluation.reach) is not None:
        reach += run.phase(REACH, lambda: (None, measure_learned_reach(resources, agent))).record["reach"]
    answered: list[dict[str, Any]] = []
    learned = park(agent, agent.backbone.config.dtype)
    scores: Scores = {}
    speed: list[dict[str, Any]] = []
    control: list[float] = []
    for task in recipe.tasks:
        for space in (SPACES[name] for name in recipe.spaces):
            tuned = fine_tune(run, resources, task, space, learned())
            if space.coded:
                record = run.phase(
                    control_phase(task.name),
                    lambda task=task, tuned=tuned: (None, measure_control(resources, task, tuned)),
                    shared=True,
                ).record
                control.append(record["random_action_kl"])
            scores[task.name, space.name, "sft"] = evaluate(run, resources, task, space, tuned, "sft")
            if has_reach(settings, task, space):
                record = run.phase(
                    reach_phase(task.name, space),
                    lambda task=task, space=space, tuned=tuned: (None, measure_reach(resources, task, space, tuned)),
                ).record
                reach += [record["reach"]] if "reach" in record else []
                answered += [record["scores"]] if "scores" in record else []
                require_reach(settings, task, record)
            reinforced, times = reinforce(run, resources, task, space, tuned)
            scores[task.name, space.name, "rl"] = evaluate(run, resources, task, space, reinforced, "rl")
            if settings is not None and is_scored(settings, task):
                record = run.phase(
                    reach_after_rl_phase(task.name, space),
                    lambda task=task, space=space, agent=reinforced: (
                        None,
                        measure_reach_after_rl(resources, task, space, agent),
                    ),
                ).record
                answered.append(record["scores"])
            speed.append(times)
    if control:
        latent = latent | {"random_action_kl_after_sft": min(control)}
    if not is_first():
        return {}
    results = collect(run, resources, base, latent, scores, speed)
    results |= {"reach": reach, "reach_scores": answered}
    write_results(run.folder, results)
    return results
