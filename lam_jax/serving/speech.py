"""An answer's text as its tokens come: what can be said already, and where it stops."""

from collections.abc import Callable, Collection, Sequence


class Speech:
    """One answer under way.

    Args:
        decode: text of tokens, special ones left out.
        ends: tokens that end an answer.
        stops: texts that end it too, and are left out. The one that is complete first counts.
        live: whether text is asked for before the end.

    Attributes:
        tokens: so far; where a text ended it, up to the token in which that text is complete.
        text: so far.
        ended: by a token or a text.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], ends: Collection[int], stops: Sequence[str] = (), live: bool = False
    ):
        self._decode, self._ends, self._stops, self._live = decode, frozenset(ends), tuple(stops), live
        self._said: list[int] = []
        self._told = ""
        self.tokens: list[int] = []
        self.text, self.ended = "", False

    def add(self, tokens: Sequence[int]) -> int:
        """More tokens; returns how many of them belong to the answer."""
        if not self._stops:
            self.tokens += tokens
            self._said += [token for token in tokens if token not in self._ends]
            self.ended = bool(self.tokens) and self.tokens[-1] in self._ends
            if self._live:
                self.text = self._decode(self._said)
            return len(tokens)
        for count, token in enumerate(tokens, 1):
            self.tokens.append(token)
            if token in self._ends:
                self.ended = True
                return count
            self._said.append(token)
            self.text = self._decode(self._said)
            found = [at for stop in self._stops if (at := self.text.find(stop)) >= 0]
            if found:
                self.text, self.ended = self.text[: min(found)], True
                return count
        return len(tokens)

    def close(self) -> None:
        """No more tokens will come."""
        if not self._stops:
            self.text = self._decode(self._said)

    def news(self, last: bool) -> str:
        """Text that was not told yet. Before the last, half a character and what may begin a stop are held back."""
        text = self.text
        if not last:
            text = text.rstrip("\ufffd")
            text = text[: len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)]
        if not text.startswith(self._told):  # shorter than what was told
            return ""
        new = text[len(self._told) :]
        self._told += new
        return new


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, and is longer than."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
