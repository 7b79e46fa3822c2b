"""The agent of a run folder: the backbone that the run began with, and what its phases trained, put back in order.

Neither rows nor reward are needed, and a run that is still going serves as well: a phase's checkpoint appears when it
is complete and is never changed.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

import lam_jax
from lam_jax.agents.checkpoints import backbone_only
from lam_jax.agents.settings import AgentError, AgentSettings
from lam_jax.errors import DamagedCheckpointError
from lam_jax.formats.hf_config import is_run
from lam_jax.formats.model_folder import tokenizer_folder
from lam_jax.latent.agent import Agent, init_latent
from lam_jax.latent.model import LatentModel
from lam_jax.models.families import spec_of
from lam_jax.pipeline.content import model_content
from lam_jax.pipeline.phases import STAGE_PHASES, rl_phase, trained_by
from lam_jax.pipeline.resources import base_backbone
from lam_jax.recipe import PACKAGE, Recipe, Weights
from lam_jax.rollout.weights import rollout_weights
from lam_jax.runs.checkpoint import restore_checkpoint
from lam_jax.runs.record import read_record, seal
from lam_jax.tasks.task import Task
from lam_jax.train.partition import merge, partition
from lam_jax.train.spaces import SPACES, Space
from lam_jax.values import ValueFormError, hash_json

CONFIG, PHASES = "config.json", "phases"
RUNS = Path("runs")  # where a run is looked for if none is named


@dataclasses.dataclass(frozen=True)
class RunAgent:
    """The agent of a task in an action space of a run, as far as the run has come.

    Attributes:
        path: of the run.
        recipe: the run's; what lies outside lam_jax are stand-ins.
        model: hashes of the files of the model that the run began with.
        task, space: which.
        phases: complete phases that it comes from, in order, the last one last.
    """

    path: Path
    recipe: Recipe
    model: dict[str, str]
    task: Task
    space: Space
    phases: tuple[str, ...]

    @property
    def phase(self) -> str:
        """The last complete phase."""
        return self.phases[-1]

    @property
    def is_complete(self) -> bool:
        """Whether the run has finished this task in this space."""
        return self.phase == rl_phase(self.task.name, self.space)

    @property
    def weights(self) -> Weights:
        """Which weights of the last phase the run kept."""
        recipe = self.recipe
        if self.phase in STAGE_PHASES:
            return getattr(recipe, STAGE_PHASES[self.phase].name).weights
        return recipe.rl.weights if self.is_complete else recipe.sft.weights

    def files(self) -> Path:
        """The tokenizer's folder, in that of the model.

        Raises:
            AgentError: the model is not there.
        """
        folder = self.recipe.model.path
        if not folder.is_dir():
            raise AgentError(
                f"{self.path}: the run began with the model in {folder}, which is not there. Restore it, or start from "
                "the folder that the run was started in if that path is relative."
            )
        return tokenizer_folder(folder)

    @property
    def settings(self) -> AgentSettings:
        """As the run's own evaluation answers."""
        recipe, task = self.recipe, self.task
        shipped = recipe.model.folder.startswith(PACKAGE)
        model = recipe.model.folder if shipped else recipe.model.path.name
        provenance = {"lam_jax": lam_jax.__version__, "run": self.path.resolve().name, "recipe": recipe.name}
        provenance |= {"recipe_fingerprint": recipe.fingerprint(), "model": model, "weights": self.weights}
        return AgentSettings(
            space=self.space.name,
            image=recipe.image,
            prompt_lengths=task.prompt_lengths,
            answer_length=task.answer_length,
            sampling=recipe.evaluation.answers[0].sampling[self.space.name],
            method=recipe.method,
            batch=recipe.evaluation.batch,
            task=task.name,
            phase=self.phase,
            provenance=provenance,
            keep_prompt_header=recipe.keep_prompt_header,
        )

    def masters(self, mesh: Mesh) -> Agent:
        """The float32 weights, sharded as in training; in the token space without latent modules.

        Raises:
            AgentError: the model's files are not those that the run began with.
            DamagedCheckpointError, CheckpointMismatchError: see `restore_checkpoint`.
        """
        recipe = self.recipe
        self._require_model()
        agent = backbone_only(base_backbone(recipe.model, mesh))
        if self.space.coded:
            agent = init_latent(agent.backbone, recipe.latent, jax.random.key(recipe.seed), mesh)
        all_trains = trained_by(self.task.name, self.space, recipe.method)
        for phase in self.phases:
            trains = all_trains[phase](agent.backbone.config, recipe.method)
            if self.space.coded or any(_part(name) != "latent" for name in trains):
                agent = self._restored(phase, trains, agent)
        return agent

    def _restored(self, phase: str, trains: Any, agent: Agent) -> Agent:
        trainable, frozen = partition(agent, trains)
        return merge(restore_checkpoint(self.path / PHASES / phase, trainable)[0], frozen)

    def read(self, mesh: Mesh) -> Agent:
        """The weights, in the compute dtype, as rollouts want them."""
        agent = self.masters(mesh)
        config = agent.backbone.config
        backbone = rollout_weights(agent.backbone, spec_of(config), config.dtype)
        if not self.space.coded:
            return backbone_only(backbone)
        latent = agent.latent
        return Agent(backbone, rollout_weights(latent, LatentModel.spec(latent.config, config.text), config.dtype))

    def content(self) -> dict[str, Any]:
        """Hashes of the recipe, of the model, and of the last phase's checkpoint, which names its arrays' hashes."""
        record = read_record(self.path / PHASES / self.phase)
        recipe = self.recipe.fingerprint()
        return {"recipe": recipe, "model": hash_json(self.model), "phase": self.phase, "checkpoint": seal(record)}

    def _require_model(self) -> None:
        self.files()  # says so if there is no folder
        folder = self.recipe.model.path
        found, known = model_content(folder), self.model
        if other := sorted(name for name in found.keys() | known.keys() if found.get(name) != known.get(name)):
            raise AgentError(
                f"{self.path}: the model in {folder} is not the one that the run began with: {', '.join(other)} differ."
                " Restore it."
            )


def _part(name: str) -> str:
    return name.partition(".")[0]


def is_run_folder(path: Path) -> bool:
    """Whether a folder's config.json is that of a run."""
    try:
        return is_run(json.loads((path / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def newest_run(folder: Path = RUNS) -> Path:
    """The run in a folder, or in one of its folders, whose files were changed last.

    Raises:
        AgentError: there is none.
    """
    # Not `**`, which passes links over.
    files = [file for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{CONFIG}")]
    found = [file.parent for file in files if is_run_folder(file.parent)]
    if not found:
        raise AgentError(f"Found no run below {folder.absolute()}: name the folder of an agent.")
    return max(found, key=lambda run: max(path.stat().st_mtime for path in run.iterdir()))


def run_tasks(path: Path) -> tuple[list[str], list[str]]:
    """Names of the tasks and action spaces of a run; of a damaged one none."""
    config = json.loads((path / CONFIG).read_text(encoding="utf-8")).get("config") or {}
    recipe = config.get("recipe") or {}
    return [str(task.get("name")) for task in recipe.get("tasks") or []], list(recipe.get("spaces") or [])


def open_run_agent(path: Path, task: str | None, space: str | None) -> RunAgent:
    """The agent of a run folder.

    Args:
        path: of the run.
        task: one of its tasks; None: its only one.
        space: one of its action spaces; None: its only one.

    Raises:
        AgentError: no run of a recipe, several tasks or spaces and none named, or no phase is complete yet.
        DamagedCheckpointError: a phase is missing before one that is complete.
    """
    recipe, model = _read(path)
    tasks = {t.name: t for t in recipe.tasks}
    chosen = tasks[_choose(path, "task", task, list(tasks))]
    in_space = SPACES[_choose(path, "space", space, recipe.spaces)]
    phases = _complete(path, list(trained_by(chosen.name, in_space, recipe.method)))
    return RunAgent(path, recipe, model, chosen, in_space, phases)


def _choose(path: Path, kind: str, asked: str | None, known: Sequence[str]) -> str:
    if asked is None and len(known) == 1:
        return known[0]
    if asked is None:
        raise AgentError(f"{path} has several {kind}s: name one of {list(known)}, as --{kind} or {kind}=.")
    if asked not in known:
        raise AgentError(f"{path}: found no {kind} {asked!r}, expected one of {list(known)}.")
    return asked


def _complete(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The complete phases among `names`, which are in order."""
    there = [(path / PHASES / name).is_dir() for name in names]
    if not any(there):
        raise AgentError(f"{path}: the run has not completed {names[0]} yet, so there is no agent. Run it further.")
    count = len(there) - there[::-1].index(True)
    if not all(there[:count]):
        missing = names[there.index(False)]
        raise DamagedCheckpointError(
            f"{path / PHASES / missing} is missing, but {names[count - 1]}, which comes after it, is there. Run the "
            "same command again: it makes the missing phase again."
        )
    return tuple(names[:count])


def first_of(path: Path) -> tuple[str, str]:
    """The first task of a run folder, and its first action space that has codes, or its first.

    Raises:
        AgentError: no run of a recipe.
    """
    recipe, _ = _read(path)
    coded = (name for name in recipe.spaces if SPACES[name].coded)
    return recipe.tasks[0].name, next(coded, recipe.spaces[0])


def _read(path: Path) -> tuple[Recipe, dict[str, str]]:
    values = json.loads((path / CONFIG).read_text(encoding="utf-8"))["config"]
    try:
        recipe = Recipe.from_json(json.dumps(values["recipe"]), stand_ins=True)
        model = dict(values["content"]["model"])
    except (KeyError, TypeError, ValueFormError) as error:
        cause = error if isinstance(error, ValueFormError) else f"no key {error}"
        raise AgentError(
            f"{path / CONFIG}: not the configuration of a run of a recipe by this version of lam_jax ({cause})."
        ) from error
    return recipe, model
