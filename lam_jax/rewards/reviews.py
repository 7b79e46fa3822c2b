"""Files of stored reviews (MMRole's layout), read by their authors' rules.

Each stored text is about one dimension and was accepted by its authors, so these rules are laxer than those of a live
judge's replies (`replies.py`): with them the published means come out.
"""

import json
import re
from pathlib import Path
from typing import Any

from lam_jax.rewards.replies import excerpt
from lam_jax.rewards.verdict import Verdict

TAG = re.compile(r"\[\s*scores?\s*\]\W*?[:：]?|\[?\bscores?\s*[:：]", re.IGNORECASE)
BARE_PAIR = re.compile(r"\(\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*\)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
Pair = tuple[float, float]


def parse_pairs(text: str) -> list[Pair]:
    """The pair after each `[Scores]:` tag of a stored text, in order; a tag without a readable pair is left out.

    Reviews vary the format. All of these are read: `[Scores]: (9, 8)`, `[Scores]: 9, 8`, `**[Scores]**: (9.5, 8)`,
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
        return Verdict(error="no review", kind="no_review")
    scores = {}
    for name, entry in reviews.items():
        text = entry.get("review", "") if isinstance(entry, dict) else ""
        pairs = parse_pairs(text) or [(float(a), float(b)) for a, b in BARE_PAIR.findall(text)]
        if not pairs or pairs[-1][1] <= 0:
            return Verdict(error=f"{name}: no usable score pair in the review: {excerpt(text)}", kind="unparsable")
        scores[name] = pairs[-1]
    return Verdict(scores)
