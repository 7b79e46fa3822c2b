"""The deterministic reward of the built-in data set: answers scored against a row's facts on the task's dimensions.

Each dimension runs from 1 to 10 as a judge's would, answer and reference are scored alike, and the reward is the sum of
the answer's scores over the sum of the reference's (method.md section 4). The dimensions look at different things, so
that an answer that is partly right is partly paid; `honesty` then scales all of them, so that nothing is paid for text
that was copied from the prompt, repeated, made of noise, or a list of everything there is. What `facts` hold:
`lam_jax.scenes.rows`.

n: answers; d: dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lam_jax.data.schemas import Example
from lam_jax.rewards.dimensions import HELP, ROLE_PLAY
from lam_jax.rewards.reward import Verdicts
from lam_jax.rewards.verdict import Verdict
from lam_jax.scenes.grammar import (
    ENDS,
    MARKS,
    NGrams,
    copied_share,
    load_grammar,
    ngrams,
    repeated_share,
    sentences,
    tokens,
)

Prompt = str | Sequence[Mapping[str, Any]]
LOW, HIGH = 1.0, 10.0
UNFINISHED = 0.7  # what is left of an answer without an end
WORDS = {"role_play": (12, 50), "help": (24, 55)}  # words of an answer of proper length


def ramp(value: float, zero: float, one: float) -> float:
    """0 at `zero`, 1 at `one`, linear between and flat beyond."""
    return min(1.0, max(0.0, (value - zero) / (one - zero)))


def share_of(found: Sequence[str], good: Sequence[str] | frozenset[str]) -> float:
    """Share of the found words that are good; 0 if none was found."""
    return sum(word in good for word in found) / len(found) if found else 0.0


class ParsedAnswer:
    """An answer taken apart: its words, what it names, and which words of each class it holds.

    Attributes:
      words: words and marks, in lower case.
      named: names of objects in order of appearance, each once.
      right: those of them that are in the picture.
    """

    def __init__(self, text: str, facts: Mapping[str, Any]):
        self.grammar = load_grammar()
        self.text, self.facts, self.words = text.strip(), facts, tokens(text)
        self.joined = f" {' '.join(self.words)} "
        self.length = sum(word not in MARKS for word in self.words)
        self.known = self.grammar.known_share(self.words, facts["task"])
        self.repeated = repeated_share(self.words)
        self.shown = {thing["name"] for thing in facts["objects"]}
        self.named = list(dict.fromkeys(self.grammar.objects[w] for w in self.words if w in self.grammar.objects))
        self.right = [name for name in self.named if name in self.shown]

    def of_class(self, name: str) -> list[str]:
        """Words of a class in order of appearance."""
        members = self.grammar.classes[name]
        return [word for word in self.words if word in members]

    def after(self, *words: str) -> list[str]:
        """Words that follow one of `words`."""
        return [follower for word, follower in zip(self.words, self.words[1:]) if word in words]

    @property
    def precision(self) -> float:
        """Share of the named objects that are in the picture; 0 if none is named."""
        return len(self.right) / len(self.named) if self.named else 0.0

    def relevance(self) -> float:
        """Objects asked for that are named, times `precision`; naming any will do where none is asked for by name."""
        wanted = self.facts["question"]["objects"]
        recall = share_of(wanted, frozenset(self.right)) if wanted else float(bool(self.right))
        return recall * self.precision

    def place(self) -> float:
        """1 if no place or only the right one is named, else the share of right ones."""
        places = [word for word in self.words if word in self.grammar.places]
        return share_of(places, (self.facts["background"],)) if places else 1.0

    def fluency(self) -> float:
        """Known class trigrams, from half of them (0) to all but a few (1)."""
        return ramp(self.known, 0.5, 0.97)

    def shape(self) -> float:
        """Form of the text: proper ending, capitals, two to six sentences, not too short or long; each a quarter."""
        parts = sentences(self.text)
        least, most = WORDS[self.facts["task"]]
        checks = (
            float(bool(self.text) and self.text[-1] in ENDS),
            share_of([part[0] for part in parts], "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            float(2 <= len(parts) <= 6),
            ramp(self.length, 0, least) * ramp(self.length, 2 * most, most),
        )
        return sum(checks) / len(checks)

    def honesty(self, prompt: NGrams) -> float:
        """Factor on every dimension: near 0 for copied, looping or senseless text and lists of everything; less for
        an answer that breaks off."""
        phrase = tokens((self.facts["character"] or {}).get("catchphrase", ""))
        own = _without(self.words, phrase)
        copied = ramp(copied_share(own, prompt), 0.8, 0.5)
        looping = ramp(self.repeated, 0.45, 0.15)
        sense = ramp(self.known, 0.1, 0.6)
        extra = max(0, len(self.named) - len(self.shown) - 1)
        ended = 1.0 if self.text[-1:] in ENDS and self.text else UNFINISHED
        return copied * looping * sense * ended * ramp(self.length, 2, 8) / (1 + extra)


def _without(words: Sequence[str], phrase: Sequence[str]) -> list[str]:
    """The words less the first occurrence of the phrase."""
    for i in range(len(words) - len(phrase) + 1):
        if phrase and list(words[i : i + len(phrase)]) == list(phrase):
            return [*words[:i], *words[i + len(phrase) :]]
    return list(words)


def _run_share(words: Sequence[str], phrase: Sequence[str]) -> float:
    """Longest beginning of the phrase that stands in the words, as a share; halved for each further whole one."""
    longest, whole = 0, 0
    for i in range(len(words)):
        length = 0
        while length < len(phrase) and i + length < len(words) and words[i + length] == phrase[length]:
            length += 1
        longest, whole = max(longest, length), whole + (length == len(phrase))
    return longest / len(phrase) / 2 ** max(0, whole - 1)


def _accuracy(parsed: ParsedAnswer) -> float:
    """How well the question is answered: the acceptable answer, and no other of its kind."""
    question, words = parsed.facts["question"], parsed.words
    kind, answers = question["kind"], question["answer"]
    if kind in ("left_of", "right_of", "middle_of", "favorite"):
        return share_of(parsed.named, answers)
    if kind == "count":
        numbers = [word for word in words if word in parsed.grammar.numbers]
        # "two lions" is a number by itself; "three things, a lion and ..." has one number too.
        return share_of(numbers, answers) * (0.5 + 0.5 * parsed.relevance())
    if kind == "category":
        said = [word for word in words if word in ("yes", "no")]
        return 0.5 * share_of(said, answers) + 0.5 * parsed.relevance()
    if kind == "place":
        return share_of([word for word in words if word in parsed.grammar.places], answers)
    if kind == "feel":
        return 0.5 * share_of(parsed.of_class("verb"), answers) + 0.5 * parsed.relevance()
    return parsed.relevance() * parsed.place()


def role_play_qualities(parsed: ParsedAnswer) -> list[float]:
    """The eight dimensions of role play, each 0 to 1, in the order of `dimensions.ROLE_PLAY`."""
    facts, words = parsed.facts, parsed.words
    character, first = facts["character"], facts["question"]["first"]
    voice = frozenset(word.lower() for word in character["style_words"]["voice"])
    mood, passion = character["style_words"]["mood"], character["style_words"]["passion"]
    accuracy, relevance = _accuracy(parsed), parsed.relevance() * (0.5 + 0.5 * parsed.place())

    greeted = bool(words) and words[0] in parsed.grammar.classes["opening"]
    addressed = bool(parsed.of_class("address"))
    follows = (float(greeted == first) + float(addressed) + float("i" in words) + parsed.shape()) / 4
    # "sight" is a pirate's verb and anybody's noun: verbs of seeing are those that follow "I" or "I only".
    seen = [word for word in parsed.after("i", "only") if word in parsed.grammar.classes["see"]]
    spoken = [parsed.of_class("address"), seen, *([words[:1]] if first else [])]
    personality = sum(share_of(found, voice) for found in spoken) / len(spoken)
    catchphrase = _run_share(words, tokens(character["catchphrase"]))
    adjectives, verbs = parsed.of_class("adjective"), parsed.of_class("verb")
    # Every object has an adjective: fewer adjectives than objects count as missing ones.
    described = share_of(adjectives, mood) * min(1.0, len(adjectives) / max(1, len(parsed.named)))
    return [
        follows * (0.25 + 0.75 * (accuracy + relevance) / 2),
        parsed.fluency(),
        parsed.shape() * ramp(parsed.repeated, 0.4, 0.1),
        relevance,
        accuracy,
        personality,
        0.5 * catchphrase + 0.5 * share_of(parsed.after("like"), passion),
        0.5 * described + 0.5 * share_of(verbs, mood),
    ]


def help_qualities(parsed: ParsedAnswer) -> list[float]:
    """The five dimensions of personalised help, each 0 to 1, in the order of `dimensions.HELP`."""
    facts, role = parsed.facts, parsed.facts["role"]
    advised = [phrase for phrase in parsed.grammar.phrases if f" {phrase} " in parsed.joined]
    place = share_of([word for word in parsed.words if word in parsed.grammar.places], (facts["background"],))
    return [
        0.5 * share_of(parsed.of_class("role"), (role["role"],))
        + 0.5 * share_of(parsed.of_class("job"), role["job_words"]),
        share_of(advised, role["body_words"]),
        share_of(parsed.of_class("mind"), role["mind_words"]),
        0.7 * parsed.relevance() + 0.3 * place,
        parsed.fluency() * parsed.shape() * (0.5 + 0.5 * parsed.precision),
    ]


QUALITIES = {"role_play": role_play_qualities, "help": help_qualities}
DIMENSIONS = {"role_play": ROLE_PLAY, "help": HELP}


@dataclass(frozen=True)
class RubricRewards:
    """Rewards of n answers.

    Attributes:
      rewards: sum of the answer's scores / sum of the reference's.
      scores, reference_scores: 1 to 10 on each dimension.
      dimensions: names of the d columns.
    """

    rewards: Float[np.ndarray, "n"]
    scores: Float[np.ndarray, "n d"]
    reference_scores: Float[np.ndarray, "n d"]
    dimensions: tuple[str, ...]

    def verdicts(self) -> list[Verdict]:
        """The same as a judge would report it, for the evaluation's summaries."""
        rows = zip(self.scores.tolist(), self.reference_scores.tolist())
        return [Verdict(dict(zip(self.dimensions, zip(answer, reference)))) for answer, reference in rows]


class Rubric:
    """Scores answers of one task, "role_play" or "help".

    Raises:
      ValueError: another task.
    """

    def __init__(self, task: str):
        if task not in QUALITIES:
            raise ValueError(
                f"rubric: found task {task!r}, expected one of {sorted(QUALITIES)}. Correct the task's name."
            )
        self.task = task
        self.dimensions: tuple[str, ...] = tuple(DIMENSIONS[task])

    def score(self, answer: str, facts: Mapping[str, Any], prompt: Prompt) -> dict[str, float]:
        """Score of an answer on each dimension, 1 to 10.

        Args:
          facts: of the row; they tell the good words, so the reference needs no look.
          prompt: messages before the answer, or their text; copies of it are not paid.

        Raises:
          ValueError: the facts are of another task.
        """
        return self._score(answer, facts, _prompt_ngrams(prompt))

    def _score(self, answer: str, facts: Mapping[str, Any], prompt: NGrams) -> dict[str, float]:
        if facts.get("task") != self.task:
            found = f"facts of task {facts.get('task')!r}"
            raise ValueError(f"rubric: found {found}, expected {self.task!r}. Score each task with its own rubric.")
        parsed = ParsedAnswer(answer, facts)
        honesty = parsed.honesty(prompt)
        qualities = QUALITIES[self.task](parsed)
        return {n: LOW + (HIGH - LOW) * honesty * q for n, q in zip(self.dimensions, qualities, strict=True)}

    def reward(
        self,
        answers: Sequence[str],
        facts: Sequence[Mapping[str, Any]],
        prompts: Sequence[Prompt],
        references: Sequence[str],
    ) -> RubricRewards:
        """Rewards of n answers; the samples of one prompt may share their facts, prompt and reference objects.

        Raises:
          ValueError: the lists differ in length, or facts are of another task.
        """
        lengths = [len(answers), len(facts), len(prompts), len(references)]
        if len(set(lengths)) != 1:
            raise ValueError(f"rubric: found {lengths} answers, facts, prompts and references; expected equally many.")
        scores, reference_scores = [], []
        known: dict[tuple[int, int, str], tuple[NGrams, list[float]]] = {}
        for answer, row, prompt, reference in zip(answers, facts, prompts, references):
            key = (id(row), id(prompt), reference)
            if key not in known:
                source = _prompt_ngrams(prompt)
                known[key] = (source, list(self._score(reference, row, source).values()))
            scores.append(list(self._score(answer, row, known[key][0]).values()))
            reference_scores.append(known[key][1])
        shape = (len(answers), len(self.dimensions))
        scored = np.asarray(scores, np.float64).reshape(shape)
        wanted = np.asarray(reference_scores, np.float64).reshape(shape)
        return RubricRewards(scored.sum(axis=1) / wanted.sum(axis=1), scored, wanted, self.dimensions)


def _prompt_ngrams(prompt: Prompt) -> NGrams:
    return ngrams(tokens(prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)))


@dataclass(frozen=True)
class RubricReward:
    """The rubric as the reward of a task, "role_play" or "help"."""

    task: str

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts [N][G]; a rubric never fails."""
        flat = [text for group in answers for text in group]
        repeated = [example for example, group in zip(examples, answers, strict=True) for _ in group]
        facts = [example.facts or {} for example in repeated]
        prompts = [[dict(message) for message in example.prompt] for example in repeated]
        found = Rubric(self.task).reward(flat, facts, prompts, [example.reference for example in repeated])
        verdicts = iter(found.verdicts())
        return [[next(verdicts) for _ in group] for group in answers]
