"""How an agent answers, as a value: what a recipe says of it, or what its exported folder holds (agent.json)."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jax.sharding import Mesh

from lam_jax.errors import LamJaxError
from lam_jax.latent.agent import Agent
from lam_jax.models.processor import ImageSettings
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.tasks.task import require_lengths
from lam_jax.train.method import Method
from lam_jax.train.spaces import SPACES, Space
from lam_jax.values import ValueFormError, decode, encode

SETTINGS = "agent.json"
_FORMAT, _VERSION = "lam_jax agent", 1


class AgentError(LamJaxError):
    """A folder that holds no agent, or not the one that was asked for."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class AgentSettings:
    """How an agent answers.

    Attributes:
        space: its action space: "latent", "hybrid" or "token".
        image: how pictures become patches.
        prompt_lengths: buckets of prompts, tokens; of longer ones the oldest text is cut.
        answer_length: most tokens of an answer.
        sampling: how actions are drawn.
        method: switches of the method, of which the readout matters here.
        batch: prompts that are answered at a time.
        task: what it was trained on; None: nothing in particular.
        phase: the last phase of its run that its weights come from; None: it comes from no run.
        provenance: where it comes from, by names such as "run", "recipe", "model" and "lam_jax".
        keep_prompt_header: a prompt that is cut keeps its chat's header, see `lam_jax/data/cuts.py`.
    """

    space: str
    image: ImageSettings
    prompt_lengths: tuple[int, ...]
    answer_length: int
    sampling: SamplingConfig
    method: Method = dataclasses.field(default_factory=Method)
    batch: int = 8
    task: str | None = None
    phase: str | None = None
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keep_prompt_header: bool = True

    def __post_init__(self):
        if self.space not in SPACES:
            raise ValueError(f"AgentSettings.space is {self.space!r}, expected one of {list(SPACES)}.")
        require_lengths(self.prompt_lengths, "AgentSettings.prompt_lengths")
        for name in ("answer_length", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"AgentSettings.{name} is {getattr(self, name)}, expected at least 1.")

    @property
    def action_space(self) -> Space:
        """The action space as a value."""
        return SPACES[self.space]

    def to_json(self) -> str:
        """The text of agent.json."""
        return json.dumps({"format": _FORMAT, "version": _VERSION, "settings": encode(self, "agent")}, indent=1) + "\n"


@runtime_checkable
class AgentFolder(Protocol):
    """A folder that an agent is read from; finding it reads no weights."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    @property
    def settings(self) -> AgentSettings:
        """How the agent answers."""
        ...

    def files(self) -> Path:
        """Folder of the tokenizer."""
        ...

    def read(self, mesh: Mesh) -> Agent:
        """The weights, as rollouts want them. In the token space the latent modules may be missing."""
        ...

    def content(self) -> dict[str, Any]:
        """Hashes that tell these weights and settings from others, as JSON values."""
        ...


def read_settings(folder: Path) -> AgentSettings:
    """The settings of an exported agent.

    Raises:
        AgentError: not an agent.json of this version of the format.
    """
    path = folder / SETTINGS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if (found := (values["format"], values["version"])) != (_FORMAT, _VERSION):
            raise AgentError(f"{path}: found format {found}, expected {(_FORMAT, _VERSION)}. Export the agent again.")
        settings = decode(values["settings"], "settings", stand_ins=True)
    except (ValueError, KeyError, TypeError) as error:
        cause = error if isinstance(error, ValueFormError) else repr(error)
        raise AgentError(f"{path}: damaged ({cause}). Export the agent again.") from error
    if not isinstance(settings, AgentSettings):
        raise AgentError(f"{path}: found settings {settings!r}, expected AgentSettings. Export the agent again.")
    return settings


def require_same(path: Path, task: str | None, space: str | None, settings: AgentSettings) -> None:
    """Refuses a task or a space that an agent of one task and one space does not have.

    Raises:
        AgentError: it has another one.
    """
    for name, asked, found in (("task", task, settings.task), ("space", space, settings.space)):
        if asked is not None and asked != found:
            has = f"one of the {name} {found!r}" if found else f"one without a {name}"
            raise AgentError(f"{path}: the {name} {asked!r} was asked for, but this agent is {has}. Leave it out.")
