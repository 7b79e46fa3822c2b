"""Rows some of whose pictures are noisy: a mitigation that is measured, augmentation of stages 1 to 4."""

import dataclasses
import hashlib
import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lam_jax.data.schemas import Example, image_bytes
from lam_jax.data.sources import RowSource, shrunk


@dataclasses.dataclass(frozen=True)
class NoisyRows:
    """Rows of another source; in one split a share of those with pictures has Gaussian noise on every pixel.

    Attributes:
        source: where the rows come from.
        share: of the rows with pictures, 0 to 1, rounded.
        deviation: of the noise, in levels of 0 to 255 that pixels have; what leaves them is cut.
        split: whose rows; the others stay as they are.
        seed: of the choice and of the noise.
    """

    source: RowSource
    share: float
    deviation: float
    split: str = "train"
    seed: int = 0

    def prepare(self, folder: Path) -> None:
        """Prepares the source."""
        self.source.prepare(folder)

    def read(self, folder: Path, split: str) -> Sequence[Example]:
        """The examples of a split."""
        examples = list(self.source.read(folder, split))
        if split != self.split:
            return examples
        pictured = [index for index, example in enumerate(examples) if example.images]
        for index in random.Random(self.seed).sample(pictured, round(self.share * len(pictured))):
            images = tuple(
                noisy_picture(image_bytes(image, examples[index].where), self.deviation, (self.seed, index, place))
                for place, image in enumerate(examples[index].images)
            )
            examples[index] = dataclasses.replace(examples[index], images=images)
        return examples

    def shrunk(self, rows: int) -> "NoisyRows":
        """The source with so many rows, where it can."""
        return dataclasses.replace(self, source=shrunk(self.source, rows))

    def content(self) -> str:
        """A hash of the source's and of what is done to it."""
        own = f"{self.source.content()} {self.share} {self.deviation} {self.split} {self.seed} noise"
        return hashlib.sha256(own.encode()).hexdigest()


def noisy_picture(encoded: bytes, deviation: float, seed: tuple[int, ...]) -> bytes:
    """A picture with noise, as a PNG in RGB."""
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), np.float32)
    noise = np.random.default_rng(seed).normal(0.0, deviation, pixels.shape)
    out = io.BytesIO()
    Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)).save(out, "PNG", compress_level=1)
    return out.getvalue()
