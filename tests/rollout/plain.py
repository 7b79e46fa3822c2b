"""Positions, penalty and sampling in plain NumPy and for one row at a time, from their definitions: what the rollout
code is checked against. Nothing of `lam_jax` is called here; settings are read, and the Gumbel noise is jax's own.

V actions of a row (codes or tokens).
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.rollout.sampling import SamplingConfig


def mrope(tokens: Sequence[int], grids: Sequence[tuple[int, int, int]], image: int, merge: int) -> np.ndarray:
    """Positions [3, L] of (time, row, column): text counts on in all three, an image spreads its rows and columns."""
    places: list[tuple[int, int, int]] = []
    later = list(grids)
    at, following = 0, 0
    while at < len(tokens):
        if tokens[at] == image:
            _, high, wide = later.pop(0)
            high, wide = high // merge, wide // merge
            places += [
                (following, following + row, following + column) for row in range(high) for column in range(wide)
            ]
            at, following = at + high * wide, following + max(high, wide)
        else:
            places.append((following, following, following))
            at, following = at + 1, following + 1
    return np.array(places, np.int32).reshape(-1, 3).T


def penalised(logits: np.ndarray, seen: Iterable[int], penalty: float) -> np.ndarray:
    """CTRL's repetition penalty: the logits [V] of seen tokens are divided if positive, multiplied if not."""
    out = np.array(logits, np.float64)
    for token in set(seen):
        out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
    return out


def noise(key: jax.Array, sample: int, step: int, width: int) -> np.ndarray:
    """The noise that a sample has at a step: the key is folded with the sample's number, then with the step."""
    own = jax.random.fold_in(jax.random.fold_in(key, sample), step)
    return np.asarray(jax.random.gumbel(own, (width,), jnp.float32), np.float64)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of exp(logits) over their sum, [V]."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@dataclasses.dataclass(frozen=True)
class Draw:
    """What is drawn from one row.

    Attributes:
        action: its number.
        logp: over the kept actions, or over all where the settings do not renormalise.
        logp_gap: log-probability over the kept ones less that over all.
        entropy: of the distribution that `logp` belongs to.
        kept: actions that could be drawn, the likeliest first; all where nothing is cut.
    """

    action: int
    logp: float
    logp_gap: float
    entropy: float
    kept: list[int]


def width(settings: SamplingConfig, actions: int) -> int:
    """Numbers of noise that a draw takes: one a slot where actions can be cut, else one an action."""
    return min(settings.top_k or actions, actions)


def draw(logits: np.ndarray, settings: SamplingConfig, gumbel: np.ndarray) -> Draw:
    """Top-k, then temperature, then top-p, then the largest sum of log-probability and noise (method.md section 4).

    Args:
        logits: [V].
        settings: temperature 0 takes the likeliest and scores at temperature 1.
        gumbel: `width` numbers; the i-th is that of the i-th likeliest action where actions can be cut, else of
            action i.
    """
    logits = np.asarray(logits, np.float64)
    scaled = logits / (settings.temperature or 1.0)
    everything = log_softmax(scaled)
    candidates = list(range(len(logits)))
    if settings.top_k is not None or settings.top_p < 1:
        candidates.sort(key=lambda action: (-logits[action], action))
        candidates = candidates[: settings.top_k]
    among = np.exp(log_softmax(scaled[candidates]))
    slots = [i for i in range(len(candidates)) if settings.top_p == 1 or among[:i].sum() < settings.top_p]
    kept = [candidates[i] for i in slots]
    logps = log_softmax(scaled[kept])
    scores = logps + gumbel[slots] if settings.temperature else logps
    best = int(scores.argmax())
    scored = logps if settings.renormalise else everything
    return Draw(
        action=kept[best],
        logp=float(logps[best] if settings.renormalise else everything[kept[best]]),
        logp_gap=float(logps[best] - everything[kept[best]]),
        entropy=float(-(np.exp(scored) * scored).sum()),
        kept=kept,
    )
