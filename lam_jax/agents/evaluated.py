"""What an evaluation is of: agents of any folder, and the sets of rows that each answers."""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lam_jax.agents.answer_file import read_prompts
from lam_jax.agents.evaluation_rewards import reward_identity
from lam_jax.agents.load import find
from lam_jax.agents.run_folder import CONFIG, RunAgent, is_run_folder, open_run_agent
from lam_jax.agents.settings import AgentError, AgentFolder
from lam_jax.data.bad_rows import BadRowError, Tally, pictures_of, tolerant
from lam_jax.data.layouts import RowParser
from lam_jax.data.schemas import Example, image_bytes
from lam_jax.data.sources import RowSource
from lam_jax.data.workers import picture_grid
from lam_jax.errors import BadSettingError
from lam_jax.models.processor import ImageSettings
from lam_jax.parallel.multihost import barrier, is_first
from lam_jax.pipeline.content import sources_of
from lam_jax.pipeline.phases import STAGE_PHASES
from lam_jax.pipeline.usable import usable
from lam_jax.rewards.dimensions import RUBRICS
from lam_jax.rewards.judge import JudgeReward, judges_of
from lam_jax.rewards.judge_config import JudgeConfig
from lam_jax.rewards.reward import Reward
from lam_jax.tasks.episodes import EpisodeTask
from lam_jax.tasks.task import Task
from lam_jax.values import ValueFormError, decode, encode

logger = logging.getLogger("lam_jax")

ROWS = "rows"  # key of the set of a file of rows


@dataclasses.dataclass(frozen=True)
class RowSet:
    """Rows that are answered and scored together.

    Attributes:
        key: of the results: "id", "ood", or "rows".
        title: in reports.
        examples: the rows.
        hashes: of what each asks for and its reference answer: results are compared only where they are the same.
        reward: what scores the answers; None: they are not scored.
    """

    key: str
    title: str
    examples: tuple[Example, ...]
    hashes: tuple[str, ...]
    reward: Reward | None

    def identity(self) -> dict[str, Any]:
        """What tells it from other sets, as JSON values."""
        content = hashlib.sha256(" ".join(self.hashes).encode()).hexdigest()
        return {"rows": {"sha256": content, "count": len(self.examples)}, "reward": reward_identity(self.reward)}


@dataclasses.dataclass(frozen=True)
class Subject:
    """An agent that is evaluated.

    Attributes:
        name: in results.
        folder: where it is read from.
        sets: what it answers.
        run: the run that it is of, if any.
        trained_by: the reward that it was trained with, where that is known.
    """

    name: str
    folder: AgentFolder
    sets: tuple[RowSet, ...]
    run: Path | None = None
    trained_by: Reward | None = None

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """Hashes that tell its weights from others; of a large folder they take a while."""
        return self.folder.content()


def subjects_of(
    path: Path,
    task: str | None,
    space: str | None,
    rows: Path | None,
    reward: Reward | None,
    prompts: int | None,
    image_root: Path | None = None,
    parser: RowParser | None = None,
) -> list[Subject]:
    """The agents of a folder: of a run every one that is fine-tuned at least, of another folder its only one.

    Args:
        path: of a run, or any folder that `lam_jax.load` takes.
        task, space: of a run those of this task or action space only.
        rows: file that is answered; None: the tests of the run's tasks.
        reward: what scores; None: what scores in the run, or nothing.
        prompts: of each set the first ones; None: all.
        image_root, parser: of `rows`, as in `read_prompts`.

    Raises:
        AgentError: no such agent, no rows to answer, or rows that have changed since the run.
        DataError: rows that cannot be used.
    """
    folders = _run_agents(path, task, space) if is_run_folder(path) else [find(path, task, space)]
    base = path.resolve().name
    found = []
    for folder in folders:
        run = folder if isinstance(folder, RunAgent) else None
        scores = reward if reward is not None or run is None else _reward_of(run.task)
        if rows is not None:
            sets: tuple[RowSet, ...] = (_set(ROWS, rows.name, read_prompts(rows, image_root, parser), scores, prompts),)
        elif run is not None:
            sets = tests_of(run, scores, prompts)
        else:
            raise AgentError(f"{path} is no run and has no rows of its own: name a file of rows, as --rows FILE.")
        name = base if run is None else f"{base}/{run.task.name}/{run.space.name}"
        trained_by = None if run is None else run.task.reward
        found.append(Subject(name, folder, sets, None if run is None else path, trained_by))
    return found


def named_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects under different names."""
    seen: dict[str, int] = {}
    out = []
    for subject in subjects:
        seen[subject.name] = number = seen.get(subject.name, 0) + 1
        out.append(subject if number == 1 else dataclasses.replace(subject, name=f"{subject.name} ({number})"))
    return out


def folder_name(number: int, name: str) -> str:
    """Of a subject's or a set's folder: its number keeps apart what the letters do not."""
    return f"{number}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:60]}"


def _run_agents(path: Path, task: str | None, space: str | None) -> list[RunAgent]:
    recipe = json.loads((path / CONFIG).read_text(encoding="utf-8"))["config"].get("recipe", {})
    tasks = [t.get("name") for t in recipe.get("tasks", [])] if task is None else [task]
    spaces = recipe.get("spaces", []) if space is None else [space]
    if not tasks or not spaces:
        open_run_agent(path, task, space)  # says what is wrong
        raise AgentError(f"{path}: the run has no task, so there is nothing to evaluate.")
    found, early = [], []
    for name in tasks:
        for place in spaces:
            try:
                agent = open_run_agent(path, name, place)
            except AgentError as error:
                if task is not None and space is not None:
                    raise
                early.append(error)
                continue
            if agent.phase in STAGE_PHASES:
                early.append(AgentError(f"{path}: task {name} is not fine-tuned in the {place} space yet."))
            else:
                found.append(agent)
    if not found:
        raise early[0]
    return found


def tests_of(agent: RunAgent, reward: Reward | None, prompts: int | None) -> tuple[RowSet, ...]:
    """The tests of a run's task, the first `prompts` rows of each; None: all.

    Raises:
        AgentError: the rows have changed since the run, or the task is played.
    """
    task, data = agent.task, agent.path / "data"
    if isinstance(task, EpisodeTask):
        raise AgentError(
            f"{agent.path}: task {task.name} is played turn by turn, and an evaluation asks for one answer a row; its "
            "games are scored in the run's results.json. Name another task, as --task NAME, or rows, as --rows FILE."
        )
    rows = imported(task.rows, f"{agent.path}, rows of task {task.name}")
    if is_first():
        rows.prepare(data)
    barrier("rows")
    known = json.loads((agent.path / CONFIG).read_text(encoding="utf-8"))["config"]["content"].get("rows")
    place = [id(source) for source in sources_of(agent.recipe)].index(id(task.rows))
    if known and known[place] != rows.content():
        raise AgentError(
            f"{agent.path}: the rows of task {task.name} are not those that the run was made on, so what was held out "
            "may have been trained on. Restore them, or evaluate on a file, as --rows FILE."
        )

    def read(split: str) -> Sequence[Example]:
        if agent.recipe.bad_rows == "skip":
            return usable_rows(rows, data, task.name, split, agent.settings.image, prompts)
        return rows.read(data, split)

    return tuple(_set(key, test.title, read(test.split), reward, prompts) for key, test in task.tests.items())


def usable_rows(
    rows: RowSource, folder: Path, task: str, split: str, image: ImageSettings, prompts: int | None = None
) -> list[Example]:
    """The rows of a split that can be used, the first ones, as a run has them that skips the others.

    Args:
        rows, folder, task: where they come from.
        split: which.
        image: how pictures are decoded.
        prompts: how many; None: all.

    Raises:
        AgentError: none can be used.
    """
    with tolerant() as tally:
        read = rows.read(folder, split)
        refused = len(tally.dropped)  # of the whole source, which the reader has told of
        decoded = (example for example in usable(read, task, False, tally) if _decodes(example, image, tally))
        kept = list(itertools.islice(decoded, prompts))
    if lost := list(tally.dropped.values())[refused:]:
        where = f"task {task}, split {split!r}"
        logger.warning("%s: rows left out, as in the run: %d; the first one: %s", where, len(lost), lost[0].text)
    if not kept:
        raise AgentError(f"Task {task}: no row of the split {split!r} can be used: {tally}.")
    return kept


def _decodes(example: Example, image: ImageSettings, tally: Tally) -> bool:
    """Whether the row's pictures can be read; else it goes on the tally."""
    try:
        for picture in pictures_of(example):
            picture_grid(picture, image)
    except BadRowError as error:
        tally.drop(example.where, error.reason, error.text, error.picture)
        return False
    return True


def _set(key: str, title: str, rows: Sequence[Example], reward: Reward | None, prompts: int | None) -> RowSet:
    examples = tuple(rows[:prompts])
    return RowSet(key, title, examples, tuple(map(example_hash, examples)), reward)


def example_hash(example: Example) -> str:
    """A hash of a row's messages and pictures, and of the facts that a judge is told; not of its id."""
    digest = hashlib.sha256(json.dumps([dict(message) for message in example.messages]).encode())
    if example.facts:
        digest.update(json.dumps(dict(example.facts), sort_keys=True, default=str).encode())
    for source in example.images:
        digest.update(hashlib.sha256(image_bytes(source, example.where)).digest())
    return digest.hexdigest()[:16]


def _reward_of(task: Task) -> Reward:
    """What scores a task's tests: its own examiner, where it has another one than in training."""
    return imported(task.examiner, f"reward of task {task.name}")


def imported(value: Any, where: str) -> Any:
    """A part of a run's recipe whose modules are imported, where reading the recipe left stand-ins."""
    try:
        return decode(encode(value), where)
    except ValueFormError as error:
        raise AgentError(
            f"{error} Start from the folder that the run was started in, or name what is to be used: --rows, --reward."
        ) from error


def judge_reward(url: str, model: str, rubric: str | None, path: Path, task: str | None) -> JudgeReward:
    """A judge as the reward of an evaluation.

    Args:
        url, model: of the endpoint.
        rubric: one of `RUBRICS`; None: that of the run's own judge.
        path, task: of the run.

    Raises:
        BadSettingError: no such rubric, or none is named and the run has no judge or several with different rubrics.
    """
    if rubric is not None:
        if rubric not in RUBRICS:
            raise BadSettingError(f"--rubric: found {rubric!r}, expected one of {sorted(RUBRICS)}.")
        return JudgeReward(JudgeConfig(url, model), RUBRICS[rubric])
    judges: list[JudgeReward] = []
    if is_run_folder(path):
        judges = [judge for agent in _run_agents(path, task, None) for judge in judges_of(_reward_of(agent.task))]
    rubrics = [judge.rubric for judge in judges]
    if not rubrics or any(other != rubrics[0] for other in rubrics):
        found = "several tasks with different ones" if rubrics else "no run with a judge"
        raise BadSettingError(f"--rubric: found {found} in {path}, expected --rubric {' or '.join(RUBRICS)}.")
    return JudgeReward(dataclasses.replace(judges[0].judge, base_url=url, model=model), rubrics[0])
