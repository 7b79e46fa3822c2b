"""Files of stored reviews (MMRole's layout), read by their authors' rules.

Each stored text is about one dimension and was accepted by its authors, so these rules are laxer than those of a live
judge's replies (`replies.py`) in what surrounds a pair: with them the published means come out. What is a pair of
scores is the same, but that a text's scores may stand without brackets, and an answer's may be 0.
"""

import json
import re
from pathlib import Path
from typing import Any

from lam_jax.rewards.replies import Pair, Unreadable, excerpt, plain, read_pair
from lam_jax.rewards.verdict import Verdict

TAG = re.compile(r"\[\s*scores?\s*\]\W*?:?|\[?\bscores?\s*:", re.IGNORECASE)
BARE_PAIR = re.compile(r"\(\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*\)")
_AROUND = " \t*_`:$"


def parse_pairs(text: str) -> list[Pair]:
    """The pair after each `[Scores]:` tag of a stored text, in order; a tag without a readable pair is left out.

    Reviews vary the format. All of these are read: `[Scores]: (9, 8)`, `[Scores]: 9, 8`, `**[Scores]**: (9.5, 8)`,
    `[Scores]: (Model A: 9, Model B: 8)`, `[Scores]: (9/10, 8/10)`, `[Scores: (9, 8)]`, full-width brackets and commas.
    """
    return [pair for pair in _tagged(text) if pair is not None]


def _tagged(text: str) -> list[Pair | None]:
    """Of each tag its pair, or None."""
    return [_pair(piece) for piece in TAG.split(plain(text))[1:]]


def _pair(piece: str) -> Pair | None:
    """The two numbers on the first line that is not empty."""
    line = next((found for line in piece.splitlines() if (found := line.strip(_AROUND))), "")
    if line[:1] in ("(", "["):  # prose may follow the closing bracket
        content, closing, _ = line[1:].partition(")" if line[0] == "(" else "]")
        found = read_pair(content) if closing else None
    else:
        found = read_pair(line.rstrip(_AROUND + ".])"))
    return None if isinstance(found, Unreadable) else found


def _stored_pair(text: str) -> Pair | None:
    """The pair of a text: that of the last tag, or where there is none the one in brackets."""
    tagged = _tagged(text)
    if tagged:
        return tagged[-1]
    bare = {(float(a), float(b)) for a, b in BARE_PAIR.findall(plain(text))}
    return bare.pop() if len(bare) == 1 else None


def read_reviews(path: Path) -> list[tuple[str, Verdict]]:
    """(row id, verdict) of each row of a review file, from the review *texts*; stored parsed scores are not looked at.

    The file is a list of `{"id", "rm_review": {dimension: {"review": text}}}`. A row without a review, or with a text
    that holds no pair, scores above 10 or a reference score of 0, gets a failed verdict. Of several tags in a text the
    last counts; where the tag is missing, a bracketed pair will do.

    Raises:
        ValueError: the file is no such list.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(rows, list):
        raise ValueError(f"a {type(rows).__name__}, expected a list of reviewed rows")
    return [(_row_id(row, number), _stored_verdict(row)) for number, row in enumerate(rows)]


def _row_id(row: Any, number: int) -> str:
    if not isinstance(row, dict) or "id" not in row:
        raise ValueError(f"row {number} without a key 'id'")
    return str(row["id"])


def _stored_verdict(row: dict[str, Any]) -> Verdict:
    reviews = row.get("rm_review")
    if not reviews:
        return Verdict(error="no review", kind="no_review")
    if not isinstance(reviews, dict):
        why = f"rm_review is a {type(reviews).__name__}, expected {{dimension: {{'review': text}}}}"
        return Verdict(error=why, kind="unparsable")
    scores = {}
    for name, entry in reviews.items():
        text = entry.get("review") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            return Verdict(error=f"{name}: the review is a {type(text).__name__}, expected a text", kind="unparsable")
        pair = _stored_pair(text)
        if pair is None or pair[1] <= 0:
            return Verdict(error=f"{name}: no usable score pair in the review: {excerpt(text)}", kind="unparsable")
        if max(pair) > 10:
            return Verdict(error=f"{name}: scores {pair}, expected 0 to 10: {excerpt(text)}", kind="out_of_range")
        scores[name] = pair
    return Verdict(scores)
