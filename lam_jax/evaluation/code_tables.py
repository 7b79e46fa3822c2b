"""Tables of codes on the host: usage and health of groups, typical tokens, transitions, nearest codes.

Legend: K codes.
"""

import collections
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from lam_jax.latent.health import CodeSums

Record = dict[str, Any]


def health_figures(sums: Sequence[CodeSums]) -> Record:
    """Health (method.md section 6) of the positions of several rows together, usage and number of positions."""
    total = jax.tree.map(lambda *x: np.sum(np.asarray(x, np.float64), axis=0), *sums)
    found = total.health
    scalars = {name: float(value) for name, value in found.scalars().items()}
    return scalars | {"positions": int(total.positions), "usage": np.asarray(found.usage, np.float64).tolist()}


def typical_tokens(
    codes: Int[np.ndarray, " N"], tokens: Int[np.ndarray, " N"], count: int, most: int
) -> list[list[Record]]:
    """Of each code the tokens that come with it more often than with all codes together.

    They are ordered by n log(lift): what a token adds to the mutual information of code and token.

    Args:
        codes, tokens: of every position.
        count: K.
        most: tokens of a code.

    Returns:
        For each code a list of `{"token", "count", "share", "lift"}`: share of the code's positions, and that over
        the token's share of all positions.
    """
    overall = collections.Counter(tokens.tolist())
    found = []
    for code in range(count):
        own = collections.Counter(tokens[codes == code].tolist())
        total = sum(own.values())
        rows = []
        for token, n in own.items():
            lift = (n / total) / (overall[token] / len(tokens))
            rows.append({"token": token, "count": n, "share": n / total, "lift": lift})
        rows.sort(key=lambda row: (-row["count"] * math.log(row["lift"]), -row["count"], row["token"]))
        found.append([row for row in rows if row["lift"] > 1][:most] or rows[:most])
    return found


def code_token_information(codes: Int[np.ndarray, " N"], tokens: Int[np.ndarray, " N"]) -> Record:
    """Mutual information of code and emitted token over positions, plug-in estimate, with both entropies, nats."""

    def entropy(values: Iterable[Any]) -> float:
        share = np.array(list(collections.Counter(values).values()), np.float64) / len(codes)
        return float(-(share * np.log(share)).sum())

    one, two = entropy(codes.tolist()), entropy(tokens.tolist())
    both = entropy(zip(codes.tolist(), tokens.tolist()))
    return {"code_entropy": one, "token_entropy": two, "mutual_information": one + two - both}


def transitions(sequences: Iterable[Sequence[int]], codes: int) -> Int[np.ndarray, "K K"]:
    """How often code j follows code i within a sequence."""
    counts = np.zeros((codes, codes), np.int64)
    for sequence in sequences:
        np.add.at(counts, (np.asarray(sequence[:-1], np.int64), np.asarray(sequence[1:], np.int64)), 1)
    return counts


def lifted(counts: Int[np.ndarray, "K K"], least: int, most: int) -> list[Record]:
    """The pairs that come more often than by chance (the product of their shares), by n log(lift)."""
    total = counts.sum()
    chance = counts.sum(1)[:, None] * counts.sum(0)[None] / max(total, 1)
    first, second = np.nonzero(counts >= max(1, least))
    rows = [
        {"first": int(i), "second": int(j), "count": int(counts[i, j]), "lift": float(counts[i, j] / chance[i, j])}
        for i, j in zip(first, second)
    ]
    rows = [row for row in rows if row["lift"] > 1]
    rows.sort(key=lambda row: (-row["count"] * math.log(row["lift"]), row["first"], row["second"]))
    return rows[:most]


def nearest(codebook: Float[np.ndarray, "K D"], most: int) -> list[list[Record]]:
    """Of each code the others whose codebook rows have the largest cosine."""
    rows = np.asarray(codebook, np.float64)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(most, len(rows) - 1)]
    return [[{"code": int(j), "cosine": float(cosine[i, j])} for j in own] for i, own in enumerate(order)]
