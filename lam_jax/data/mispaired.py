"""Rows some of whose pictures are those of other rows: what pairs of poor quality do to a method."""

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from lam_jax.data.schemas import Example
from lam_jax.data.sources import RowSource, shrunk


@dataclasses.dataclass(frozen=True)
class MispairedRows:
    """Rows of another source; in one split a share of those with pictures has the pictures of other rows.

    Attributes:
        source: where the rows come from.
        share: of the rows with pictures, 0 to 1, rounded; they pass theirs on in a circle. A row may get a picture that
            looks like its own, and only rows with equally many pictures exchange them, so that every picture keeps a
            place in the text.
        split: whose rows; the others stay as they are.
        seed: of the choice.
    """

    source: RowSource
    share: float
    split: str = "train"
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"MispairedRows.share is {self.share}, expected 0 to 1.")

    def prepare(self, folder: Path) -> None:
        """Prepares the source."""
        self.source.prepare(folder)

    def read(self, folder: Path, split: str) -> Sequence[Example]:
        """The examples of a split.

        Raises:
            DataError: what the source raises.
        """
        examples = list(self.source.read(folder, split))
        if split != self.split:
            return examples
        groups: dict[int, list[int]] = {}
        for index, example in enumerate(examples):
            groups.setdefault(len(example.images), []).append(index)
        draw = random.Random(self.seed)
        for count in sorted(groups.keys() - {0}):
            chosen = draw.sample(groups[count], round(self.share * len(groups[count])))
            pictures = [examples[index].images for index in chosen]
            for index, images in zip(chosen, pictures[1:] + pictures[:1], strict=True):
                examples[index] = dataclasses.replace(examples[index], images=images)
        return examples

    def shrunk(self, rows: int) -> "MispairedRows":
        """The source with so many rows, where it can."""
        return dataclasses.replace(self, source=shrunk(self.source, rows))

    def content(self) -> str:
        """A hash of the source's and of what is done to it."""
        return hashlib.sha256(f"{self.source.content()} {self.share} {self.split} {self.seed}".encode()).hexdigest()
