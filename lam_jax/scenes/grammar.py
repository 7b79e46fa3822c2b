"""What the rubric knows of the scenes' language: word classes, object names and n-grams of word classes.

The table `assets/scenes.json` is made by `lam_jax.scenes.make_rubric`. Fluency is measured on trigrams of
*classes*: in "a grand lion" every adjective and every object counts alike, so the table is small and any good wording
is covered.
"""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ASSET = Path(__file__).parent / "assets" / "scenes.json"
TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[.,!?;:]")
MARKS = frozenset(".,!?;:")
ENDS = frozenset(".!?")
START, STOP = "<s>", "</s>"
RUN = 5  # tokens in a row that count as copied: shorter runs recur by chance

NGrams = frozenset[tuple[str, ...]]


def tokens(text: str) -> list[str]:
    """Words and marks of a text, in lower case."""
    return TOKEN.findall(text.lower())


@dataclass(frozen=True)
class Grammar:
    """Tables of the scenes' language.

    Attributes:
      classes: word class -> its words ("opening", "address", "see", "adjective", "verb", "passion", "job", ...).
      objects: every form of an object's name -> the name.
      phrases: phrases of what a body can do.
      places: backgrounds; numbers: the words of one, two and three.
      trigrams: task -> trigrams of word classes that answers of the task have.
    """

    classes: dict[str, frozenset[str]]
    objects: dict[str, str]
    phrases: tuple[str, ...]
    places: frozenset[str]
    numbers: frozenset[str]
    trigrams: dict[str, frozenset[str]]

    @functools.cached_property
    def class_of(self) -> dict[str, str]:
        """Word -> symbol of its class; words that sound with a vowel have a symbol of their own, for "a" and "an"."""
        table: dict[str, str] = {}
        groups = {**self.classes, "place": self.places, "number": self.numbers}
        for name, members in groups.items():
            for word in members:
                table.setdefault(word, f"{name}{_vowel(word)}")
        for form, name in self.objects.items():
            table[form] = f"{'object' if form == name else 'objects'}{_vowel(form)}"
        return table

    def class_trigrams(self, words: Sequence[str]) -> list[str]:
        """Trigrams of class symbols of a token list, with its start and its end."""
        table = self.class_of
        symbols = [START, *(table.get(word, word) for word in words), STOP]
        return [" ".join(symbols[i : i + 3]) for i in range(len(symbols) - 2)]

    def known_share(self, words: Sequence[str], task: str | None = None) -> float:
        """Share of the token list's class trigrams that the task's (None: any task's) answers have; 0 if empty."""
        if not words:
            return 0.0
        table = self.trigrams[task] if task else frozenset().union(*self.trigrams.values())
        found = self.class_trigrams(words)
        return sum(trigram in table for trigram in found) / len(found)


def _vowel(word: str) -> str:
    return "^" if word[0] in "aeiou" and not word.startswith("use") else ""


@functools.cache
def load_grammar() -> Grammar:
    """The shipped tables."""
    data = json.loads(ASSET.read_text())
    return Grammar(
        classes={name: frozenset(words) for name, words in data["classes"].items()},
        objects=data["objects"],
        phrases=tuple(data["phrases"]),
        places=frozenset(data["places"]),
        numbers=frozenset(data["numbers"]),
        trigrams={task: frozenset(rows) for task, rows in data["trigrams"].items()},
    )


def repeated_share(words: Sequence[str]) -> float:
    """Share of the word trigrams that occurred before in the token list."""
    trigrams = list(zip(words, words[1:], words[2:]))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def ngrams(words: Sequence[str]) -> NGrams:
    """All runs of `RUN` tokens."""
    return frozenset(tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1))


def copied_share(words: Sequence[str], source: NGrams) -> float:
    """Share of the token list in runs of `RUN` or more tokens of the source; 0 if it is shorter than a run."""
    covered = [False] * len(words)
    for i in range(len(words) - RUN + 1):
        if tuple(words[i : i + RUN]) in source:
            covered[i : i + RUN] = [True] * RUN
    return sum(covered) / len(words) if words else 0.0


def sentences(text: str) -> list[str]:
    """Sentences of a text with their end marks; what follows the last end mark is one without."""
    return [part.strip() for part in re.findall(r"[^.!?]+[.!?]*", text) if part.strip()]


def is_fluent(answer: str) -> bool:
    """The loose check: complete sentences with a proper ending, no repetition loop, wording mostly known.

    Complete: each sentence starts with a capital and the answer has three words at least. A loop is a word three times
    in a row, or a fifth of the trigrams repeated. Mostly known: 60 % of the class trigrams are the grammar's.
    """
    text = answer.strip()
    words = tokens(text)
    if not text or text[-1] not in ENDS or sum(word not in MARKS for word in words) < 3:
        return False
    if not all(sentence[0].isupper() or sentence[0].isdigit() for sentence in sentences(text)):
        return False
    thrice = any(a == b == c for a, b, c in zip(words, words[1:], words[2:]))
    return not thrice and repeated_share(words) < 0.2 and load_grammar().known_share(words) >= 0.6
