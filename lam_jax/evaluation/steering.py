"""How well a property of answers can be set: biases found from contrast sets, and results at equal fluency.

Legend: A actions (K codes or V tokens), P prompts, S strengths, G samples.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lam_jax.errors import BadSettingError
from lam_jax.evaluation.repetition import words

Record = dict[str, Any]
BOOTSTRAP = 1000
REGISTER = 8  # words of a speaker's register


@dataclasses.dataclass(frozen=True)
class Property:
    """Something that an answer has or has not.

    Attributes:
        name: in results.
        holds: of a text.
        instruction: what the prompt baseline adds to the question.
    """

    name: str
    holds: Callable[[str], bool]
    instruction: str


def property_of(spec: str, texts: Sequence[str], speakers: Sequence[str | None]) -> Property:
    """A property by its name: "long", "question", "contains:WORD,..", "first:WORD:OTHER,.." or "register:SPEAKER".

    Args:
        spec: "long": more words than the median of `texts`; "question": has a question mark; "contains": one of the
            words; "first": of all these words the first one named is the one before the second colon; "register": one
            of the words that tell the speaker's answers from the others'.
        texts: answers of the rows.
        speakers: who speaks in each.

    Raises:
        BadSettingError: no such property.
    """
    kind, _, rest = spec.partition(":")
    if kind == "long" and not rest:
        least = int(np.median([len(words(text)) for text in texts])) + 1
        return Property(spec, lambda text: len(words(text)) >= least, f"Answer in at least {least} words.")
    if kind == "question" and not rest:
        return Property(spec, lambda text: "?" in text, "Answer with a question.")
    if kind == "contains" and (wanted := _words(rest)):
        return Property(spec, _contains(wanted), f"Use one of these words: {', '.join(wanted)}.")
    if kind == "first" and (others := _words(rest.partition(":")[2])) and (first := rest.partition(":")[0].lower()):
        known = {first, *others}

        def named_first(text: str) -> bool:
            return next((word for word in words(text) if word in known), None) == first

        return Property(spec, named_first, f"Name the {first} first.")
    if kind == "register" and rest in set(filter(None, speakers)):
        own = register_words(texts, speakers, rest)
        if own:
            return Property(spec, _contains(own), f"Speak as {rest}.")
    names = sorted(set(filter(None, speakers)))
    raise BadSettingError(
        f"--property: found {spec!r}, expected long, question, contains:WORD,.., first:WORD:OTHER,.. or "
        f"register:SPEAKER with a speaker of the rows ({', '.join(names[:12]) or 'they name none'})."
    )


def _words(text: str) -> list[str]:
    return [word.strip().lower() for word in text.split(",") if word.strip()]


def _contains(wanted: Sequence[str]) -> Callable[[str], bool]:
    known = set(wanted)
    return lambda text: not known.isdisjoint(words(text))


def register_words(texts: Sequence[str], speakers: Sequence[str | None], speaker: str) -> list[str]:
    """The words that most tell a speaker's answers from the others', by log-odds of the answers that have them."""
    own, others = collections.Counter(), collections.Counter()
    counts = [0, 0]
    for text, who in zip(texts, speakers, strict=True):
        (own if who == speaker else others).update(set(words(text)))
        counts[who != speaker] += 1
    scored = {
        word: math.log((n + 0.5) / (counts[0] - n + 0.5))
        - math.log((others[word] + 0.5) / (counts[1] - others[word] + 0.5))
        for word, n in own.items()
        if n >= 2
    }
    return [word for word, odds in sorted(scored.items(), key=lambda item: -item[1]) if odds > 1][:REGISTER]


def log_odds(
    having: Sequence[Sequence[int]], lacking: Sequence[Sequence[int]], actions: int, prior: float = 20.0
) -> Float[np.ndarray, " A"]:
    """How much more often each action comes in answers that have a property: log of the ratio of its odds.

    Counts of both sides are smoothed by `prior` counts of the shares of both together, so that an action that hardly
    comes at all gets little bias.

    Raises:
        ValueError: one of the two sides is empty.
    """
    counts = [
        np.bincount(np.concatenate([np.asarray(x, np.int64) for x in side]) if side else [], minlength=actions)
        for side in (having, lacking)
    ]
    if not counts[0].sum() or not counts[1].sum():
        raise ValueError("found no actions on one of the two sides, expected answers with the property and without")
    share = prior * (counts[0] + counts[1] + 1e-3) / (counts[0] + counts[1] + 1e-3).sum()
    p, q = ((own + share) / (own.sum() + prior) for own in counts)
    return np.log(p / (1 - p)) - np.log(q / (1 - q))


@dataclasses.dataclass(frozen=True)
class Swept:
    """What a method gave.

    Attributes:
        method: "codes", "prompt", or tokens with their temperature.
        strengths: S; the prompt has one.
        has: whether each answer has the property.
        fluency: mean log-probability of its tokens under the judge, nats.
    """

    method: str
    strengths: tuple[float, ...]
    has: Bool[np.ndarray, "P S G"]
    fluency: Float[np.ndarray, "P S G"]


def at_fluency(swept: Swept, least: float, prompts: np.ndarray | None = None) -> tuple[float | None, float | None]:
    """The largest share with the property among strengths whose mean fluency is `least` or more, and that strength."""
    chosen = slice(None) if prompts is None else prompts
    share, fluent = swept.has[chosen].mean((0, 2)), swept.fluency[chosen].mean((0, 2))
    allowed = [(float(s), -strength) for s, f, strength in zip(share, fluent, swept.strengths) if f >= least]
    return (max(allowed)[0], -max(allowed)[1]) if allowed else (None, None)


def steering_table(swept: Sequence[Swept], loss: float, confidence: float = 0.95, seed: int = 0) -> list[Record]:
    """Each method at equal fluency: the best strength that costs at most `loss` nats a token against unsteered codes.

    Intervals are percentiles of bootstrap draws of whole prompts; each draw chooses its strength anew, as the figure
    itself does, and all methods see the same draws. `gain` is over the unsteered codes.
    """
    base = next(one for one in swept if one.method == "codes")
    at_zero = base.strengths.index(0.0)
    draws = np.random.default_rng(seed).integers(0, len(base.has), (BOOTSTRAP, len(base.has)))
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]

    def figures(chosen: np.ndarray | None, one: Swept) -> tuple[float | None, float | None, float]:
        own = slice(None) if chosen is None else chosen
        least = float(base.fluency[own, at_zero].mean()) - loss
        share, strength = at_fluency(one, least, chosen)
        return share, strength, float(base.has[own, at_zero].mean())

    rows = []
    for one in swept:
        share, strength, unsteered = figures(None, one)
        boots = [figures(draw, one) for draw in draws]
        shares = [s for s, _, _ in boots if s is not None]
        gains = [s - u for s, _, u in boots if s is not None]
        usable = share is not None and len(shares) > BOOTSTRAP // 2
        rows.append(
            {
                "method": one.method,
                "share": share,
                "low": float(np.percentile(shares, tails[0])) if usable else None,
                "high": float(np.percentile(shares, tails[1])) if usable else None,
                "gain": None if share is None else share - unsteered,
                "gain_low": float(np.percentile(gains, tails[0])) if usable else None,
                "gain_high": float(np.percentile(gains, tails[1])) if usable else None,
                "strength": strength,
                "fluency": None if strength is None else float(one.fluency[:, one.strengths.index(strength)].mean()),
                "unsteered": unsteered,
            }
        )
    return rows


def curve(one: Swept) -> list[Record]:
    """Share and fluency at every strength."""
    return [
        {"strength": strength, "share": float(one.has[:, s].mean()), "fluency": float(one.fluency[:, s].mean())}
        for s, strength in enumerate(one.strengths)
    ]


def by_prompt(found: Sequence[Sequence[Any]], strengths: int) -> np.ndarray:
    """[P, S x G] values as [P, S, G]."""
    values = np.array(found)
    return values.reshape(len(values), strengths, -1)
