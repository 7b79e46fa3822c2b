"""In which contexts codes stand: classes of what goes before a token, and passages that show a code.

Legend: N positions.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lam_jax.evaluation.code_reading import ReadRow

Record = dict[str, Any]
CLASSES = (
    "start of an answer",
    "start of a sentence",
    "after other punctuation",
    "after a word of 1 to 3 letters",
    "after a longer word",
)
SHORT, BEFORE, AFTER = 3, 9, 5  # letters; tokens of a passage


def context_class(previous: str, is_first: bool) -> int:
    """The index in `CLASSES` of a position: by the text of the token before, and whether an answer begins."""
    if is_first:
        return 0
    text = previous.strip()
    if previous.endswith("\n") or (text and text[-1] in ".!?…。！？"):
        return 1
    if not text or not text[-1].isalnum():
        return 2
    return 3 if len(text) <= SHORT else 4


def row_classes(row: ReadRow, piece: Callable[[int], str]) -> Int[np.ndarray, " N"]:
    """The class of each answer position of a row; `piece`: the text of a token."""
    starts = np.diff(row.places, prepend=-2) != 1
    return np.array(
        [context_class(piece(int(row.tokens[at - 1])), bool(first)) for at, first in zip(row.places, starts)], np.int64
    )


def runs(row: ReadRow, codes: Int[np.ndarray, " N"]) -> list[list[int]]:
    """The codes of each answer of a row apart: a chat has several."""
    cuts = np.flatnonzero(np.diff(row.places) != 1) + 1
    return [part.tolist() for part in np.split(codes, cuts)]


def passages(rows: Sequence[ReadRow], codes: int, most: int) -> list[list[tuple[int, int]]]:
    """Of each code the positions where it is the surest, as (row, position): other rows and tokens before more of one.

    Returns:
        For each code at most `most` pairs of an index in `rows` and one of its positions.
    """
    by_code: list[list[tuple[float, int, int]]] = [[] for _ in range(codes)]
    for number, row in enumerate(rows):
        for place, (code, sure) in enumerate(zip(row.inferred.tolist(), row.certainty.tolist())):
            by_code[code].append((-sure, number, place))
    found = []
    for candidates in by_code:
        seen_rows: collections.Counter[int] = collections.Counter()
        seen_tokens: collections.Counter[int] = collections.Counter()
        own: list[tuple[int, int]] = []
        for limit in (1, 2, len(rows) + most):
            for _, number, place in sorted(candidates):
                token = int(rows[number].tokens[rows[number].places[place]])
                if len(own) == most:
                    break
                if (number, place) in own or seen_rows[number] >= limit or seen_tokens[token] >= limit:
                    continue
                own.append((number, place))
                seen_rows[number] += 1
                seen_tokens[token] += 1
        found.append(own)
    return found


def passage(row: ReadRow, place: int, decode: Callable[[list[int]], str]) -> Record:
    """A passage as texts: what goes before, the token, what follows, and how sure the code is."""
    at = int(row.places[place])
    return {
        "row": row.example.id,
        "before": decode(row.tokens[max(0, at - BEFORE) : at].tolist()),
        "token": decode([int(row.tokens[at])]),
        "after": decode(row.tokens[at + 1 : at + 1 + AFTER].tolist()),
        "certainty": float(row.certainty[place]),
    }
