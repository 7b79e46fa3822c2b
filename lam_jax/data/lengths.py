"""How long the rows of a source are, in tokens, against the buckets that they have to fit into."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lam_jax.data.collator import Collator
from lam_jax.data.schemas import Example

LOOKED_AT = 2000  # rows of a source: tokenizing all of a large one would take minutes


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths of the rows of a source before any cut, the tokens of their pictures included.

    Attributes:
        name: what rows these are.
        rows: of the source.
        looked_at: rows that were encoded, evenly spread.
        bucket: tokens of the largest bucket.
        longer: rows of those looked at that have more.
        cut: tokens of them that do not fit.
        longest, median: tokens of a row.
    """

    name: str
    rows: int
    looked_at: int
    bucket: int
    longer: int
    cut: int
    longest: int
    median: float

    def __str__(self) -> str:
        """One line for the console."""
        of = f"{self.looked_at}" if self.looked_at == self.rows else f"{self.looked_at} looked at of {self.rows}"
        return (
            f"{self.name}: {self.longer} of {of} rows ({self.longer / self.looked_at:.1%}) are longer than the largest "
            f"bucket of {self.bucket} tokens and are cut, by {self.cut / max(1, self.longer):.0f} tokens on average; "
            f"the longest has {self.longest}, the median {self.median:.0f}"
        )


def measure_lengths(name: str, collator: Collator, examples: Sequence[Example], most: int = LOOKED_AT) -> Lengths:
    """Encodes up to `most` rows, evenly spread.

    Raises:
        DataError: a picture whose size is needed cannot be read.
    """
    count = min(most, len(examples))
    chosen = np.linspace(0, len(examples) - 1, count).round().astype(int)
    lengths = collator.lengths([examples[int(index)] for index in chosen])
    bucket = collator.config.lengths[-1]
    over = np.maximum(lengths - bucket, 0)
    return Lengths(
        name,
        len(examples),
        count,
        bucket,
        int((over > 0).sum()),
        int(over.sum()),
        int(lengths.max(initial=0)),
        float(np.median(lengths)) if len(lengths) else 0.0,
    )
