"""Rows that an atlas of codes is made over: a run's own tests and held-out pre-training rows, or a file."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.agents.answer_file import read_prompts
from lam_jax.agents.evaluated import imported, tests_of, usable_rows
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.prompts import PromptCollator
from lam_jax.agents.run_folder import RunAgent, is_run_folder, open_run_agent, run_tasks
from lam_jax.agents.settings import AgentError, AgentFolder, AgentSettings
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collated, Collator, CollatorConfig
from lam_jax.data.layouts import RowParser
from lam_jax.data.schemas import Example, Message
from lam_jax.parallel.multihost import barrier, is_first
from lam_jax.pipeline.phases import STAGE_PHASES
from lam_jax.recipe import Corpus
from lam_jax.rollout.sampling import SamplingConfig

NAMED = re.compile(r"\s*Name: *(\S.{0,79})$", re.MULTILINE)
SPEAKERS = ("character", "speaker", "character_role", "role")  # keys of a row's facts


@dataclasses.dataclass(frozen=True)
class RowsOf:
    """Rows that belong together.

    Attributes:
        name: a task's, that of a pre-training corpus, or a file's.
        is_task: rows of a task, which prompts are taken from.
        examples: the rows, each with an answer once `with_answers` was called.
    """

    name: str
    is_task: bool
    examples: tuple[Example, ...]


def speaker_of(example: Example) -> str | None:
    """Who speaks in a row's answer: a character in its facts, or the name that a role-play prompt begins with."""
    for key in SPEAKERS:
        value = (example.facts or {}).get(key)
        name = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(name, str) and name.strip():
            return name
    first = next((message["content"] for message in example.prompt if message["role"] == "user"), "")
    named = NAMED.match(first)
    return named[1].strip() if named else None


def latent_agent(path: Path, task: str | None, find: Any) -> AgentFolder:
    """The agent in the latent space; of a run with several tasks and none named the one that has come furthest.

    Raises:
        AgentError: it has no codes, or there is no agent.
    """
    if not (path.is_dir() and is_run_folder(path)):
        folder = find(path, task, None)
    else:
        tasks, spaces = run_tasks(path)
        if spaces and "latent" not in spaces:
            raise _no_codes(path, spaces[0])
        if task is None and len(tasks) > 1:
            found = [folder for name in tasks if (folder := _opened(path, name)) is not None]
            if found:
                return max(found, key=lambda folder: len(folder.phases))
        folder = open_run_agent(path, task, "latent" if spaces else None)
    if not folder.settings.action_space.coded:
        raise _no_codes(path, folder.settings.space)
    return folder


def _opened(path: Path, task: str) -> RunAgent | None:
    try:
        return open_run_agent(path, task, "latent")
    except AgentError:
        return None


def _no_codes(path: Path, space: str) -> AgentError:
    return AgentError(
        f"{path}: found an agent in the {space} space, which has no codes; expected one in the latent space. Name a "
        "run with `spaces` latent, or a folder that `lam-jax export --space latent` wrote."
    )


def rows_of(
    folder: AgentFolder,
    file: Path | None,
    most: int,
    image_root: Path | None = None,
    parser: RowParser | None = None,
) -> list[RowsOf]:
    """The rows: of a file, or of a run its tasks' tests and the rows that pre-training held out.

    Args:
        folder: the agent.
        file: of rows; None: the run's own.
        most: rows of each test, corpus or file that are taken.
        image_root, parser: of `file`, as in `read_prompts`.

    Raises:
        AgentError: no run and no file, or rows that have changed since the run.
        DataError: rows that cannot be used.
    """
    if file is not None:
        return [RowsOf(file.name, True, tuple(read_prompts(file, image_root, parser)[:most]))]
    if not isinstance(folder, RunAgent):
        raise AgentError(f"{folder.path} is no run and has no rows of its own: name a file of rows, as --rows FILE.")
    recipe = folder.recipe
    found = []
    for task in recipe.tasks:
        own = dataclasses.replace(folder, task=task)
        sets = tests_of(own, None, most)
        found.append(RowsOf(task.name, True, tuple(example for part in sets for example in part.examples)))
    for name, corpus in (("pre-training, paired", recipe.paired), ("pre-training, text-only", recipe.text_only)):
        if corpus is not None:
            found.append(RowsOf(name, False, tuple(_held_out(folder, corpus, most))))
    return found


def _held_out(folder: RunAgent, corpus: Corpus, most: int) -> Sequence[Example]:
    rows, data = imported(corpus.rows, f"{folder.path}, rows of pre-training"), folder.path / "data"
    if is_first():
        rows.prepare(data)
    barrier("rows")
    if folder.recipe.bad_rows == "skip":
        return usable_rows(rows, data, "pre-training", corpus.held_out, folder.settings.image, most)
    return rows.read(data, corpus.held_out)[:most]


class ChatCollator(PromptCollator):
    """Makes batches of whole chats, cut on the right."""

    def __init__(self, encoder: ChatEncoder, settings: AgentSettings, lengths: tuple[int, ...]):
        super().__init__(encoder, settings)
        self.lengths = lengths

    def __call__(self, examples: Sequence[Example], rows: int | None = None) -> Collated:
        """The batch of `examples`, filled up to `rows`."""
        return self._collator(*self._room(examples))(examples, rows)

    def _make(self, pictures: int, patches: int | None, windows: int | None) -> Collator:
        image = self.settings.image
        config = CollatorConfig(self.lengths, "train", "right", image, pictures, patches=patches, windows=windows)
        return Collator(self.encoder, config)


def chat_lengths(folder: AgentFolder) -> tuple[int, ...]:
    """Buckets of whole chats, tokens."""
    if isinstance(folder, RunAgent):
        recipe = folder.recipe
        corpora = [recipe.paired, *([recipe.text_only] if recipe.text_only is not None else [])]
        lengths = [*(n for task in recipe.tasks for n in task.chat_lengths), *(n for c in corpora for n in c.lengths)]
        return tuple(sorted(set(lengths)))
    settings = folder.settings
    return tuple(length + settings.answer_length for length in settings.prompt_lengths)


def with_answers(agent: LoadedAgent, rows: Sequence[RowsOf], batch: int) -> tuple[list[RowsOf], int]:
    """The rows, the agent's own greedy answer where a row has none; and how many such rows there are."""
    found, own = [], 0
    for part in rows:
        bare = [example for example in part.examples if not example.has_reference]
        said: dict[int, Example] = {}
        if bare:
            greedy = SamplingConfig(temperature=0.0)
            answered = [a for answers in agent.batches(bare, sampling=greedy, batch=batch) for a in answers]
            for item in answered:
                if (text := item.answers[0].text).strip():
                    message = Message(role="assistant", content=text)
                    said[id(item.example)] = dataclasses.replace(
                        item.example, messages=(*item.example.messages, message)
                    )
        kept = [said.get(id(e), e) for e in part.examples if e.has_reference or id(e) in said]
        own += len(said)
        found.append(dataclasses.replace(part, examples=tuple(kept)))
    return found, own


def before_rl(folder: AgentFolder) -> RunAgent | None:
    """The same agent as it was before RL; None: there was none, or it is no run."""
    if not isinstance(folder, RunAgent) or not folder.is_complete or len(folder.phases) < 2:
        return None
    if folder.phases[-2] in STAGE_PHASES:
        return None
    return dataclasses.replace(folder, phases=folder.phases[:-1])
