"""Reading score pairs out of a judge's prose, and files of stored reviews (MMRole's layout)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lam_jax.rewards.verdict import Verdict

TAG = re.compile(r"\[\s*scores?\s*\]\W*?[:：]?|\[?\bscores?\s*[:：]", re.IGNORECASE)
BARE_PAIR = re.compile(r"\(\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*\)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
Pair = tuple[float, float]


def parse_pairs(text: str) -> list[Pair]:
    """The pair after each `[Scores]:` tag of a text, in order; a tag without a readable pair is left out.

    Judges vary the format. All of these are read: `[Scores]: (9, 8)`, `[Scores]: 9, 8`, `**[Scores]**: (9.5, 8)`,
    `[Scores]: (Model A: 9, Model B: 8)`, `[Scores]: (9/10, 8/10)`, `[Scores: (9, 8)]`, full-width brackets and commas.
    """
    return [pair for piece in TAG.split(text)[1:] if (pair := _pair(piece)) is not None]


def _pair(piece: str) -> Pair | None:
    """The two numbers on the first line that is not empty."""
    lines = [line for line in piece.splitlines() if line.strip(" *_:：")]
    if not lines:
        return None
    line = re.sub(r"/\s*10\b", "", lines[0]).replace("，", ",").replace("（", "(").replace("）", ")")
    if "(" in line:  # prose may follow the closing bracket
        line = line[line.index("(") + 1 :].split(")")[0]
    parts = line.split(",")
    if len(parts) == 2:
        # a label such as "Model 1" may hold a digit itself: the score comes after its colon
        found = [NUMBER.findall(part.split(":")[-1]) for part in parts]
        numbers = [values[0] for values in found if values]
    else:
        numbers = NUMBER.findall(line)
    return (float(numbers[0]), float(numbers[1])) if len(numbers) == 2 else None


def parse_reply(text: str, dimensions: Sequence[str], swapped: bool = False, integers_only: bool = False) -> Verdict:
    """Verdict from one reply that scores all dimensions in order.

    Args:
        text: the judge's reply.
        dimensions: names, in the order in which they were asked for.
        swapped: the reference was shown first, so that the pairs are (reference, answer).
        integers_only: fail on 8.5 (the released code's rule).

    Returns:
        A failed verdict unless there is exactly one pair a dimension, every score from 1 to 10.
    """
    pairs = parse_pairs(text)
    if len(pairs) != len(dimensions):
        return Verdict(error=f"{len(pairs)} score pairs in the reply, expected {len(dimensions)}: {_excerpt(text)}")
    for name, pair in zip(dimensions, pairs, strict=True):
        if not all(1 <= score <= 10 for score in pair):
            return Verdict(error=f"{name}: scores {pair}, expected 1 to 10")
        if integers_only and not all(score.is_integer() for score in pair):
            return Verdict(error=f"{name}: scores {pair}, expected integers")
    return Verdict(
        {name: (pair[1], pair[0]) if swapped else pair for name, pair in zip(dimensions, pairs, strict=True)}
    )


def read_reviews(path: Path) -> list[tuple[str, Verdict]]:
    """(row id, verdict) of each row of a review file, from the review *texts*; stored parsed scores are not looked at.

    The file is a list of `{"id", "rm_review": {dimension: {"review": text}}}`. A row without a review, or with a text
    that holds no pair or a reference score of 0, gets a failed verdict. Of several pairs in a text the last counts;
    where the tag is missing, a bracketed pair will do.

    Raises:
        ValueError: the file is no such list.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: found a {type(rows).__name__}, expected a list of reviewed rows")
    return [(_row_id(row, path, number), _stored_verdict(row)) for number, row in enumerate(rows)]


def _row_id(row: Any, path: Path, number: int) -> str:
    if not isinstance(row, dict) or "id" not in row:
        raise ValueError(f"{path}, row {number}: found no key 'id', expected a reviewed row; check the file's layout")
    return str(row["id"])


def _stored_verdict(row: dict[str, Any]) -> Verdict:
    reviews = row.get("rm_review")
    if not reviews:
        return Verdict(error="no review")
    scores = {}
    for name, entry in reviews.items():
        text = entry.get("review", "") if isinstance(entry, dict) else ""
        pairs = parse_pairs(text) or [(float(a), float(b)) for a, b in BARE_PAIR.findall(text)]
        if not pairs or pairs[-1][1] <= 0:
            return Verdict(error=f"{name}: no usable score pair in the review: {_excerpt(text)}")
        scores[name] = pairs[-1]
    return Verdict(scores)


def _excerpt(text: str) -> str:
    tail = " ".join(text.split())[-80:]
    return f"...{tail!r}"
