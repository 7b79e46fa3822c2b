"""Which phases two runs may share, and the key under which they do: a hash of all that a phase's result depends on.

Of a recipe everything counts but what is named here as not read by a phase, so that a field that is added later
counts; besides it rows and model by content, our whole code, versions, devices and mesh, and the arrays of the phases
before. Stages 1 to 4 and the figures of their codes do not depend on tasks, spaces and stages 5 and 6; a task's
stage 5 not on other tasks and on stage 6; scores after it not on how stage 6 trains. In doubt a phase is not shared:

- where bad rows are skipped, since what is skipped goes by what was read before;
- where a function or class of a part that counts lies outside lam_jax, whose code no hash covers;
- scores by an embedder, or by a reward with code of its own.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lam_jax.errors import CheckpointMismatchError, DamagedCheckpointError
from lam_jax.hosts.consistency import code_hash, versions
from lam_jax.pipeline.phases import CODES, REACH, STAGE_PHASES, has_reach, reach_phase, scores_phase, sft_phases
from lam_jax.recipe import Recipe
from lam_jax.rewards.embedding import is_lexical
from lam_jax.rewards.reward import WithContent
from lam_jax.runs.record import read_record
from lam_jax.train.spaces import SPACES
from lam_jax.values import FUNCTION, TYPE, encode, hash_json

STAGE_FIELDS = tuple(stage.name for stage in STAGE_PHASES.values())
# Of a recipe, not read by stages 1 to 4 but where they are put in again below.
_LATER = ("name", "tasks", "spaces", "rl", "evaluation", "sft", *STAGE_FIELDS)
# Of the method, what stages 1 to 4 do not use.
_OF_STAGE_5 = ("sft", "sft_blocks", "response_only")
# Of the evaluation, what stages use: rows of a validation batch, and when they stop.
_WATCHED = ("held_out", "least_used_share")
# Of stage 6, how it trains; how it draws and from how many prompts counts for scores.
_TRAINING = (
    *("algorithm", "task_algorithms", "optimisers", "steps", "epochs", "mini_batches", "micro_batches"),
    *("update_lengths", "remat", "weights", "validate_every", "max_failed_steps", "least_usable", "overlap_scoring"),
    "rollout_weights",
)


class Shares:
    """The phases of one recipe that it may share.

    Args:
        recipe: which.
        content: hashes of its rows, model and rewards, `content_of`.
        devices: on which it runs; None: the keys are only compared with each other.
        rollouts: their mesh for answers; None: the same.
    """

    def __init__(self, recipe: Recipe, content: Mapping[str, Any], devices: Mesh | None, rollouts: Mesh | None = None):
        self._parts: dict[str, Any] = {}
        self._before: dict[str, tuple[str, ...]] = {}
        if recipe.bad_rows != "skip":
            self._declare(recipe, content)
        self._machine = None if devices is None else _machine(devices, rollouts)

    def _declare(self, recipe: Recipe, content: Mapping[str, Any]) -> None:
        whole = encode(recipe, "recipe")
        corpora = _corpora(whole)
        common = _common(whole, content)
        learned = tuple(STAGE_PHASES)
        for number, phase in enumerate(learned):
            stages = {name: whole[name] for name in STAGE_FIELDS[: number + 1]}
            self._add(phase, common | stages, learned[:number])
        common |= {name: whole[name] for name in STAGE_FIELDS}
        self._add(CODES, common, learned)
        common["method"] = whole["method"]
        watched = common | {
            "evaluation": whole["evaluation"],
            "tasks": whole["tasks"],
            "rows of tasks": content["rows"],
        }
        if recipe.evaluation.reach is not None:
            self._add(REACH, watched, learned)
        for index, task in enumerate(recipe.tasks):
            rewards = {key: value for key, value in content["rewards"].items() if key.partition("/")[0] == task.name}
            own = {"task": whole["tasks"][index], "rows of task": content["rows"][corpora + index], "rewards": rewards}
            for space in (SPACES[name] for name in recipe.spaces):
                tuned = common | own | {"space": space.sft_space, "sft": whole["sft"]}
                before = learned
                for phase in sft_phases(task.name, space, recipe.method):
                    self._add(phase, tuned, before)
                    before = *before, phase
                plain = not isinstance(task.reward, WithContent) and not isinstance(task.examiner, WithContent)
                if plain and is_lexical(recipe.evaluation.embedder):
                    drawn = {key: value for key, value in whole["rl"].items() if key not in _TRAINING}
                    scored = tuned | {"space": space.name, "evaluation": whole["evaluation"], "rl": drawn}
                    self._add(scores_phase("sft", task.name, space), scored, before)
                    if has_reach(recipe.evaluation.reach, task, space):
                        self._add(reach_phase(task.name, space), scored, before)

    def _add(self, phase: str, part: Mapping[str, Any], before: Sequence[str]) -> None:
        if all(name.partition(":")[0].partition(".")[0] == "lam_jax" for name in _names(part)):
            self._parts[phase] = hash_json({"phase": phase, **part})
            self._before[phase] = tuple(before)

    @property
    def planned(self) -> Mapping[str, str]:
        """Phases that can be shared, by name; where two recipes have the same value, one of them trains the phase."""
        return self._parts

    def key(self, phases: Path, phase: str) -> str | None:
        """The key of a phase in a run's folder of phases; None where it is not shared or one before it is missing."""
        if phase not in self._parts or self._machine is None:
            return None
        try:
            before = {name: _checksums(phases / name) for name in self._before[phase]}
        except (DamagedCheckpointError, CheckpointMismatchError):
            return None
        return hash_json({"part": self._parts[phase], "machine": self._machine, "before": before})


def learned_part(whole: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Of an encoded recipe and the hashes of its content what stages 1 to 4 depend on."""
    return _common(whole, content) | {name: whole[name] for name in STAGE_FIELDS}


def _common(whole: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """What all of them depend on."""
    common = {key: value for key, value in whole.items() if key not in _LATER}
    common["method"] = {key: value for key, value in whole["method"].items() if key not in _OF_STAGE_5}
    common["evaluation"] = {key: whole["evaluation"][key] for key in _WATCHED}
    common["content"] = {"model": content["model"], "rows": content["rows"][: _corpora(whole)]}
    return common


def _corpora(whole: Mapping[str, Any]) -> int:
    return 1 + (whole["text_only"] is not None)


def share_data(folder: Path, store: Path, content: Mapping[str, Any]) -> None:
    """Makes the folder of a run's data a link into the store, so that runs of the same rows build them once.

    Args:
        folder: where the run looks for its data; one that is there stays.
        store: of the phases.
        content: of the recipe, `content_of`.
    """
    if folder.exists() or folder.is_symlink():
        return
    shared = store / "data" / hash_json(content["rows"])[:16]
    shared.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(os.path.relpath(shared, folder.parent), target_is_directory=True)


def _names(value: Any) -> Iterator[str]:
    """The classes and functions that an encoded value names."""
    if isinstance(value, dict):
        yield from (value[key] for key in (TYPE, FUNCTION) if key in value)
        for item in value.values():
            yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _machine(devices: Mesh, rollouts: Mesh | None) -> dict[str, Any]:
    """What numbers depend on besides the recipe, as far as rounding."""
    other = {} if rollouts in (None, devices) else {"rollout mesh": [int(size) for size in rollouts.devices.shape]}
    return other | {
        "code": _code(),
        "versions": versions(),
        "mesh": {str(name): size for name, size in devices.shape.items()},
        "processes": jax.process_count(),
        "settings": [str(getattr(jax.config, name)) for name in ("jax_default_matmul_precision", "jax_enable_x64")],
    }


@functools.cache
def _code() -> str:
    return code_hash()


def _checksums(checkpoint: Path) -> str:
    """Hash of the arrays of a complete phase, by their recorded checksums."""
    arrays = read_record(checkpoint)["arrays"]
    found = {name: stored["checksum"] for name, stored in arrays.items()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
