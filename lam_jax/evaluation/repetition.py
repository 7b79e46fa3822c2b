"""How much answers repeat themselves, and how many different words they use: shares of word n-grams.

Words are runs of letters and digits in lower case; of scripts that are written without spaces (Han, kana) each
character is one.
"""

import itertools
import re
from collections.abc import Iterable, Iterator

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
NGRAM = 4  # words that are a repetition where they come again


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text.lower())


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    found = words(text)
    return zip(*(itertools.islice(found, start, None) for start in range(n)))


def repeated_share(text: str, n: int = NGRAM) -> float | None:
    """1 - different n-grams / n-grams of one text (seq-rep-n of Welleck et al. 2020); None under n words."""
    found = list(_ngrams(text, n))
    return 1 - len(set(found)) / len(found) if found else None


def distinct_share(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams / n-grams of all texts together (distinct-n of Li et al. 2016); None if there are none."""
    found = [ngram for text in texts for ngram in _ngrams(text, n)]
    return len(set(found)) / len(found) if found else None
