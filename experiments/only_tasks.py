"""Rows of some kinds alone, by what their facts say: which text makes codes that reach a task's answers."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from lam_jax.data.schemas import Example
from lam_jax.data.sources import RowSource, shrunk


@dataclasses.dataclass(frozen=True)
class OnlyTasks:
    """Rows of another source; in one split only those whose facts name one of some tasks.

    Attributes:
        source: where the rows come from; each has facts with a "task".
        tasks: that are kept.
        split: whose rows; the others stay as they are.
    """

    source: RowSource
    tasks: tuple[str, ...]
    split: str = "train"

    def prepare(self, folder: Path) -> None:
        """Prepares the source."""
        self.source.prepare(folder)

    def read(self, folder: Path, split: str) -> Sequence[Example]:
        """The examples of a split.

        Raises:
            ValueError: a row's facts name no task.
        """
        examples = self.source.read(folder, split)
        if split != self.split:
            return examples
        for example in examples:
            if not example.facts or "task" not in example.facts:
                raise ValueError(f"Row {example.id} of {split!r} has no facts with a task, expected one to choose by.")
        return [example for example in examples if example.facts and example.facts["task"] in self.tasks]

    def shrunk(self, rows: int) -> "OnlyTasks":
        """The source with so many rows, where it can."""
        return dataclasses.replace(self, source=shrunk(self.source, rows))

    def content(self) -> str:
        """A hash of the source's and of what is done to it."""
        return hashlib.sha256(f"{self.source.content()} {self.tasks} {self.split} only".encode()).hexdigest()
