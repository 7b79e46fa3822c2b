"""Answers of an atlas: under forced codes, before and after RL; and how their texts and pictures are shown.

Legend: K codes.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from lam_jax.agents.atlas_rows import speaker_of
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.data.schemas import Example
from lam_jax.evaluation.code_reading import ReadRow
from lam_jax.evaluation.figures import AnswerText, text_figures
from lam_jax.evaluation.generate import Answer, Answered, generate
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.rollout.steering import SteeredActions, forcing

Record = dict[str, Any]
T = TypeVar("T")
GREEDY = SamplingConfig(temperature=0.0)
TOGETHER = 32  # codes that are forced in one program
ANSWER = re.compile(r"(?:<\|im_end\|>)?\n?<\|im_start\|>assistant\n|^assistant\n")  # cut off at its left, too
EXAMPLES = 8  # changed answers that are shown


class Texts:
    """Tokens as texts that can be shown."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def piece(self, token: int) -> str:
        """The text of one token, special ones by their names."""
        return self.tokenizer.decode([token])

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens together; a picture's placeholders are one sign, and so is what begins an answer."""
        text = re.sub(r"(?:<\|image_pad\|>)+", "▣", self.tokenizer.decode(list(tokens)))
        return ANSWER.sub("▶ ", text)

    def coded(self, answer: Answer) -> Record:
        """An answer as pieces with the code of each; special tokens are left out."""
        pieces = [self.tokenizer.decode([token], skip_special_tokens=True) for token in answer.tokens]
        kept = [(piece, action) for piece, action in zip(pieces, answer.actions, strict=True) if piece]
        return {"text": answer.text, "tokens": [p for p, _ in kept], "codes": [a for _, a in kept]}


class Shown:
    """The rows whose first pictures are shown, numbered as they come."""

    def __init__(self):
        self.examples: list[Example] = []
        self._numbers: dict[int, int] = {}

    def number(self, example: Example) -> int | None:
        """Of a row's picture; None: it has none."""
        if not example.images:
            return None
        if id(example) not in self._numbers:
            self._numbers[id(example)] = len(self.examples)
            self.examples.append(example)
        return self._numbers[id(example)]

    def question(self, example: Example) -> Record:
        """What is asked, of whom."""
        return {
            "row": example.id,
            "speaker": speaker_of(example),
            "question": example.prompt[-1]["content"],
            "picture": self.number(example),
        }


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly spread."""
    count = min(most, len(items))
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, count).round()] if count else []


def vocabulary_of(agent: LoadedAgent) -> int:
    """Number of tokens."""
    return agent.agent.backbone.config.text.vocab_size


def answer_figures(answered: Sequence[Answered]) -> Record:
    """Length, repetition and distinct answers."""
    return text_figures([[AnswerText(a.text, len(a.tokens), a.finished) for a in item.answers] for item in answered])


def changed_positions(before: Sequence[ReadRow], after: Sequence[ReadRow]) -> Record:
    """The share of the positions of the same rows where the policy's most likely code is another one."""
    old = {id(row.example): row.chosen for row in before}
    changed = np.concatenate([old[id(row.example)] != row.chosen for row in after])
    return {"changed": float(changed.mean()), "positions": len(changed)}


def changed_answers(
    before: Sequence[Answered], after: Sequence[Answered], codes: int, texts: Texts, shown: Shown
) -> Record:
    """Greedy answers to the same prompts: the codes of both, and examples of those that changed."""
    one, two = (own_usage(answered, codes) for answered in (before, after))
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a.answers[0].text != b.answers[0].text]
    return {
        "own_usage_before": one.tolist(),
        "own_usage_after": two.tolist(),
        "own_perplexity_before": perplexity(one),
        "own_perplexity_after": perplexity(two),
        "prompts": len(after),
        "answers_changed": len(changed),
        "figures_before": answer_figures(before),
        "figures_after": answer_figures(after),
        "examples": [
            shown.question(a.example) | {"before": texts.coded(a.answers[0]), "after": texts.coded(b.answers[0])}
            for a, b in spread(changed, EXAMPLES)
        ],
    }


def own_usage(answered: Sequence[Answered], codes: int) -> Float[np.ndarray, " K"]:
    """Share of each code among those that answers took."""
    taken = [action for item in answered for answer in item.answers for action in answer.actions]
    return np.bincount(np.array(taken, np.int64), minlength=codes) / max(1, len(taken))


def perplexity(shares: Float[np.ndarray, " K"]) -> float:
    """exp of the entropy of shares; 1 where there are none."""
    own = shares[shares > 0]
    return float(np.exp(-(own * np.log(own)).sum()))


def forced_answers(
    agent: LoadedAgent,
    free: Sequence[Answered],
    codes: int,
    length: int,
    shown: Shown,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Record:
    """The greedy answers to a few prompts when one code is taken at every step, for every code.

    Args:
        agent: whose.
        free: the prompts with the agent's own greedy answers.
        codes: K.
        length: most tokens of an answer.
        shown: numbers pictures.
        progress: wraps the parts that codes are gone through in.
    """
    prompts = [item.example for item in free]
    if not prompts:
        return {"length": length, "prompts": []}
    together = min(TOGETHER, codes)
    config = RolloutConfig(samples=together, length=length, sampling=GREEDY)
    said: list[list[Answer]] = [[] for _ in prompts]
    key = jax.random.key(0)  # greedy: nothing is drawn
    for start in progress(range(0, codes, together)):
        numbers = np.minimum(np.arange(start, start + together), codes - 1)
        space = SteeredActions(agent.actions, forcing(numbers, codes))
        answered = generate(space, prompts, agent.prompts, agent.tokenizer, config, key, len(prompts))
        for own, item in zip(said, answered, strict=True):
            own += item.answers[: codes - start]
    return {
        "length": length,
        "prompts": [
            shown.question(item.example)
            | {"free": item.answers[0].text, "distinct": len({answer.text for answer in own})}
            | {"answers": [{"text": answer.text, "finished": answer.finished} for answer in own]}
            for item, own in zip(free, said, strict=True)
        ],
    }
