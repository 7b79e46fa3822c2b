"""Comparison of one array of ours with one of the reference."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["output", "gradient", "exact", "input"]

TOLERANCES = {
    "output": "1e-5 + 1e-4 |b|",
    "gradient": "1e-3 |b| + 1e-5 max|b|",
    "exact": "equal",
    "input": "input",
}

# Near zero, `1e-5 + 1e-4 |b|` is below the rounding of the reference itself: evaluating the same formulas in float64
# misses it as well, by a factor of 1.3 on InverseWarmUp/action_logits; logits are sums of products that are
# larger than themselves. Such elements count as rounding if they are within this share of their row's
# largest, about 100 units in its last place; the table says how many there were.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Check:
    """An array to compare.

    where: positions that count (leading dimensions of the arrays); None: all. The reference's states at padding are an
        accident of its attention kernel, except through the loss, which has arrays of its own.
    """

    ours: ArrayLike | None
    kind: Kind = "output"
    where: np.ndarray | None = None


@dataclass(frozen=True)
class Verdict:
    """The line of the table that an array gets."""

    name: str
    absolute: float
    relative: float
    tolerance: str
    passed: bool
    note: str = ""


def judge(name: str, check: Check | None, reference: np.ndarray) -> Verdict:
    """Compares; an array that we do not compute, of another shape or with NaN fails."""
    if check is None:
        return Verdict(name, np.nan, np.nan, "-", False, "unknown array")
    kind = "exact" if reference.dtype.kind in "iub" and check.kind == "output" else check.kind
    if kind == "input":
        return Verdict(name, 0.0, 0.0, TOLERANCES[kind], True, "read by our code")
    ours = np.asarray(check.ours)
    if ours.shape != reference.shape:
        return Verdict(name, np.nan, np.nan, TOLERANCES[kind], False, f"shape {ours.shape}, expected {reference.shape}")
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    if check.where is not None:
        a, b = a[check.where], b[check.where]
    error, size = np.abs(a - b), np.abs(b)
    largest = size.max(initial=0.0)
    allowed = {
        "output": 1e-5 + 1e-4 * size,
        "gradient": 1e-3 * size + 1e-5 * largest,
        "exact": np.zeros_like(size),
    }[kind]
    relative = np.max(np.divide(error, size, out=np.zeros_like(error), where=size > 0), initial=0.0)
    passed, note = bool(np.all(error <= allowed)), ""
    if kind == "output" and not passed and reference.ndim > 1:
        beyond = int(np.sum(~(error <= allowed)))
        row = np.broadcast_to(np.max(np.abs(reference), axis=-1, keepdims=True), reference.shape)
        row = row if check.where is None else row[check.where]
        passed = bool(np.all(error <= allowed + ROUNDING * row))
        note = f"{beyond} of {error.size} near zero, within {ROUNDING} of their row" if passed else ""
    return Verdict(
        name=name,
        absolute=float(np.max(error, initial=0.0)),
        relative=float(relative),
        tolerance=TOLERANCES[kind],
        passed=passed and bool(np.all(np.isfinite(a))),
        note=note,
    )
