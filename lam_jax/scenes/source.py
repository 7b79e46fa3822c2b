"""The built-in world's rows as sources, its tasks, and its measure of the backbone, for recipes."""

import dataclasses
from pathlib import Path
from typing import Any

from lam_jax.data.schemas import Example
from lam_jax.latent.agent import Agent
from lam_jax.pipeline.resources import Resources
from lam_jax.recipe import PAIRED
from lam_jax.scenes.builder import SceneSizes, fingerprint, prepare, read_split
from lam_jax.scenes.caption_scores import caption_scores
from lam_jax.scenes.grammar import is_fluent
from lam_jax.scenes.rubric import RubricReward
from lam_jax.tasks.task import ScoredSplit, Task

BASE_MODEL = Path(__file__).parent / "assets" / "base_model"
BASE_MODEL_FOLDER = "lam_jax:scenes/assets/base_model"
IMAGE_SIZE = (84, 112)  # height, width
# Tokens: the longest row of the data set, rounded up a little. Rows of `help` would fit into 120 and 64, but with the
# shapes of the other task it finds all its programs compiled, and that takes longer than the padding.
CHAT_LENGTHS = {"paired": 96, "text_only": 120, "role_play": 184, "help": 184}
PROMPT_LENGTHS = {"paired": 64, "role_play": 160, "help": 160}
ANSWER_LENGTH = 56


@dataclasses.dataclass(frozen=True)
class SceneRows:
    """One of the data set's configurations: "paired", "text_only", "role_play" or "help".

    Attributes:
        rows: which.
        sizes: of all splits of all configurations; they are built together.
    """

    rows: str
    sizes: SceneSizes

    def prepare(self, folder: Path) -> None:
        """Builds the data set in `folder` unless it is there."""
        prepare(folder, self.sizes)

    def read(self, folder: Path, split: str) -> list[Example]:
        """The examples of a split.

        Raises:
            DataError: no such split, or a damaged file.
        """
        return read_split(prepare(folder, self.sizes), self.rows, split)

    def shrunk(self, rows: int) -> "SceneRows":
        """At most so many rows a split, the first ones."""
        smaller = {
            field.name: {split: min(size, rows) for split, size in getattr(self.sizes, field.name).items()}
            for field in dataclasses.fields(self.sizes)
        }
        return SceneRows(self.rows, SceneSizes(**smaller))

    def content(self) -> str:
        """Hash of everything that the rows depend on: sizes, the generator's code and its assets."""
        return fingerprint(self.sizes)


def scene_tasks(sizes: SceneSizes) -> dict[str, Task]:
    """Role play and personalised help, scored by the rubric."""

    def task(name: str, title: str, **fields: Any) -> Task:
        return Task(
            name,
            title,
            SceneRows(name, sizes),
            RubricReward(name),
            chat_lengths=(CHAT_LENGTHS[name],),
            prompt_lengths=(PROMPT_LENGTHS[name],),
            answer_length=ANSWER_LENGTH,
            check=is_fluent,
            **fields,
        )

    role_play = {
        "id": ScoredSplit("id_test", "ID: unseen scenes"),
        "ood": ScoredSplit("ood_test", "OOD: held-out characters"),
    }
    help_tests = {"id": ScoredSplit("ls1", "LS1: known role sets"), "ood": ScoredSplit("ls2", "LS2: new role sets")}
    return {
        "role_play": task("role_play", "Role play", tests=role_play),
        "help": task("help", "Personalised help", tests=help_tests),
    }


def backbone_scores(resources: Resources, agent: Agent) -> dict[str, Any]:
    """How well the backbone names what is in held-out scenes."""
    examples = resources.examples(PAIRED, "caption_test")
    chats, prompts = resources.chats[PAIRED], resources.prompts[PAIRED]
    return dataclasses.asdict(caption_scores(agent.backbone, examples, chats, prompts, resources.tokenizer))
