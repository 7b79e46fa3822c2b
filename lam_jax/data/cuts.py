"""Rows that are longer than the longest bucket: what of them is kept.

A cut prompt stays a chat. Kept are its header (the system turn; the first user turn's opening and, in role play, its
first line, the character's name), every vision token, and the assistant's header at the end; given up is the oldest of
the other text. A later turn of which some text is left keeps its opening; one of which none is left goes with it.
"""

import dataclasses
import itertools

import numpy as np

from lam_jax.data.chat import ChatEncoder, Encoded
from lam_jax.data.schemas import DataError, Example, Message

NAME_LINE = "Name: "  # begins the line of the character's name, see tasks/mmrole.py
FIX = "Use longer prompts (prompt_lengths), or drop the row."


@dataclasses.dataclass(frozen=True)
class Cuts:
    """How much did not fit into the longest bucket."""

    rows: int = 0
    tokens: int = 0

    def __add__(self, other: "Cuts") -> "Cuts":
        return Cuts(self.rows + other.rows, self.tokens + other.tokens)


def cut_right(row: Encoded, length: int, example: Example) -> Encoded:
    """The first `length` tokens.

    Raises:
      DataError: the cut would go through the pictures.
    """
    if len(row) <= length:
        return row
    if not row.valid[length:].all():
        found = f"{int((~row.valid).sum())} vision tokens that do not end within {length} tokens"
        raise DataError(
            example.where, "images", found, "all of them within the row", "Use longer rows or fewer images."
        )
    return row.take(slice(length))


def cut_left(row: Encoded, length: int, example: Example) -> Encoded:
    """`length` tokens: every vision token, and the last of the others, whatever they are (**official:** this one).

    Raises:
      DataError: the vision tokens alone fill the row.
    """
    if len(row) <= length:
        return row
    room = length - _vision(row, length, example)
    return row.take(np.union1d(np.flatnonzero(~row.valid), np.flatnonzero(row.valid)[-room:]))


def _vision(row: Encoded, length: int, example: Example) -> int:
    """The row's vision tokens, if they leave room for others."""
    count = int((~row.valid).sum())
    if count >= length:
        found, fix = f"{count} vision tokens", "Use longer prompts or fewer images."
        raise DataError(example.where, "images", found, f"fewer than the prompt's {length} tokens", fix)
    return count


def cut_prompt(row: Encoded, length: int, example: Example, encoder: ChatEncoder) -> Encoded:
    """At most `length` tokens of a prompt, as the head of this file says: `length` where only its first turn is cut.

    Raises:
      DataError: vision tokens and header alone fill the row.
    """
    if len(row) <= length:
        return row
    vision = _vision(row, length, example)
    turns, fixed = _turns(row, example, encoder), ~row.valid
    for turn in turns:
        if turn.whole:
            fixed[turn.start : turn.stop] = True
        elif turn.stays:
            fixed[turn.start : turn.text] = fixed[turn.end : turn.stop] = True
    if fixed.sum() >= length:
        found = f"{vision} vision tokens and {int(fixed.sum()) - vision} of the chat's header"
        raise DataError(example.where, "messages", found, f"fewer than the prompt's {length} tokens in all", FIX)
    for turn in turns:
        if turn.whole:
            continue
        # An opening without text would be an empty turn: a turn is given up whole when none of its text is left.
        least = len(row) - length  # further left, more would be kept than there is room for
        for cut in range(max(least, turn.text if turn.stays else turn.start), turn.end):
            kept = fixed.copy()
            kept[cut:] = True
            if not turn.stays and cut > turn.start:
                kept[turn.start : turn.text] = True
            if kept.sum() <= length:
                return row.take(np.flatnonzero(kept))
    return row.take(np.flatnonzero(fixed))


@dataclasses.dataclass(frozen=True)
class _Turn:
    """Places in a row: `start`, its opening; `text`, what may be given up; `end`, its closing; `stop`, the next turn.

    `whole`: nothing of it may be given up. `stays`: its opening and closing, even without text.
    """

    start: int
    text: int
    end: int
    stop: int
    whole: bool
    stays: bool


def _turns(row: Encoded, example: Example, encoder: ChatEncoder) -> list[_Turn]:
    """The turns of a prompt, the assistant's header last."""
    messages = encoder.with_system(example.prompt)
    starts = [*np.flatnonzero(row.tokens == encoder.start_id).tolist(), len(row)]
    if len(starts) != len(messages) + 2:
        found = f"{len(starts) - 1} turns in the tokens of {len(messages)} messages"
        raise DataError(example.where, "messages", found, "one more than messages, for the answer", FIX)
    user = next(i for i, message in enumerate(messages) if message["role"] == "user")
    closing = 1 + len(encoder.ids("\n"))
    turns = []
    for i, (start, stop) in enumerate(itertools.pairwise(starts)):
        whole = i == len(messages) or messages[i]["role"] == "system"
        text, end = start, stop
        if not whole:
            text, end = _text_of(row, messages[i], start, i == user, encoder), stop - closing
        stays = i == user or not bool(row.valid[start:stop].all())
        turns.append(_Turn(start, text, end, stop, whole, stays))
    return turns


def _text_of(row: Encoded, message: Message, start: int, first: bool, encoder: ChatEncoder) -> int:
    """Where the text of a turn begins that may be given up: after its opening and the line of a name."""
    role, content = message["role"], message["content"]
    line, rest, _ = content.partition("\n")
    name = f"{line}{rest}" if first and rest and line.startswith(NAME_LINE) else ""
    # Vision tokens stand between the opening and the text, or the two are one piece.
    own = start + 1 + np.flatnonzero(row.valid[start + 1 :])
    together = _shared(row.tokens[own], encoder.ids(f"{role}\n{name}"))
    opening = encoder.ids(f"{role}\n")
    apart = _shared(row.tokens[own], (*opening, *encoder.ids(name)) if name else opening)
    return int(own[max(together, apart) - 1]) + 1


def _shared(tokens: np.ndarray, ids: tuple[int, ...]) -> int:
    """Length of the common prefix."""
    count = min(len(tokens), len(ids))
    different = np.flatnonzero(np.asarray(tokens[:count]) != np.asarray(ids[:count]))
    return int(different[0]) if len(different) else count
