"""Reproducible cuts of a data set: Python's `random` with a seed, then `int(f * N)`, as the released code cuts."""

import random
from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row")
SEED = 42


def shuffled(rows: Sequence[Row], seed: int = SEED) -> list[Row]:
    """A shuffled copy; the order depends on `seed` and the number of rows only."""
    copy = list(rows)
    random.Random(seed).shuffle(copy)
    return copy


def cut(rows: Sequence[Row], start: float, stop: float) -> list[Row]:
    """Rows from share `start` up to share `stop`: `rows[int(start * N) : int(stop * N)]`."""
    if not 0.0 <= start <= stop <= 1.0:
        raise ValueError(f"cut: found shares {start} to {stop}; expected 0 <= start <= stop <= 1.")
    return list(rows[int(start * len(rows)) : int(stop * len(rows))])


def hold_out(rows: Sequence[Row], share: float, seed: int = SEED) -> tuple[list[Row], list[Row]]:
    """(kept, held-out) rows, shuffled: `int(share * N)` are held out, but at least one of two or more if share > 0."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"hold_out: found share {share}; expected 0 <= share < 1.")
    if share == 0.0 or len(rows) < 2:
        return list(rows), []
    mixed = shuffled(rows, seed)
    held = max(1, int(share * len(mixed)))
    return mixed[:-held], mixed[-held:]
