"""Answers and verdicts of a set of rows as the figures of a result: JSON values, None where there is no number."""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lam_jax.evaluation.diversity import distinct_answers, text_diversity
from lam_jax.evaluation.paired import Comparison
from lam_jax.evaluation.repetition import NGRAM, distinct_share, repeated_share
from lam_jax.evaluation.scoring import Scored, summarise
from lam_jax.rewards.embedding import Embedder, cut_texts
from lam_jax.rewards.verdict import Verdict

Record = dict[str, Any]
NO_KIND = "failed"  # of a failed call whose reward gives no kind


@dataclasses.dataclass(frozen=True)
class AnswerText:
    """One answer.

    Attributes:
        text: without special tokens.
        length: tokens, the end-of-turn token included.
        finished: whether it ends in the end-of-turn token; else it was cut at the most tokens.
    """

    text: str
    length: int
    finished: bool


def text_figures(answers: Sequence[Sequence[AnswerText]]) -> Record:
    """Length, ended share, repetition and distinct answers of the answers to each prompt.

    Raises:
        ValueError: there are no answers.
    """
    flat = [answer for group in answers for answer in group]
    if not flat:
        raise ValueError("found no answers, expected those to one prompt or more")
    lengths = [answer.length for answer in flat]
    repeated = [share for answer in flat if (share := repeated_share(answer.text)) is not None]
    texts = [answer.text for answer in flat]
    return {
        "answers": len(flat),
        "length": {
            "mean": float(np.mean(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": max(lengths),
        },
        "ended": float(np.mean([answer.finished for answer in flat])),
        f"repeated_{NGRAM}grams": float(np.mean(repeated)) if repeated else None,
        "short_answers": len(flat) - len(repeated),
        "distinct_1": distinct_share(texts, 1),
        "distinct_2": distinct_share(texts, 2),
        "distinct_answers": distinct_answers([[answer.text for answer in group] for group in answers]),
    }


def diversity_figures(answers: Sequence[Sequence[AnswerText]], embedder: Embedder) -> Record:
    """Diversity of the answers to each prompt, and how many texts the embedder read only the beginning of."""
    texts = [[answer.text for answer in group] for group in answers]
    found = dataclasses.asdict(text_diversity(texts, embedder))
    return found | {
        "prompts": len(texts),
        "samples": len(texts[0]),
        "cut": cut_texts(embedder, [text for group in texts for text in group]),
    }


def score_figures(
    scored: Sequence[Scored], confidence: float = 0.95, seed: int = 0
) -> tuple[Record | None, dict[str, Record]]:
    """The score, and each dimension: mean, bootstrap interval over prompts, mean of each sample number and their std.

    None and nothing where every call failed.
    """
    summary = summarise(scored, confidence, "bootstrap", seed)
    if not summary.samples:
        return None, {}
    successful = [item for item in scored if item.verdict.ok]

    def of(estimate: Any, value: Callable[[Verdict], float]) -> Record:
        means = _sample_means(successful, value)
        spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
        return {**_plain(dataclasses.asdict(estimate)), "std": spread, "sample_means": means}

    dimensions = {
        name: of(estimate, lambda verdict, name=name: verdict.named[name])
        for name, estimate in summary.dimensions.items()
    }
    return of(summary.score, lambda verdict: verdict.mean_ratio), dimensions


def _sample_means(successful: Sequence[Scored], value: Callable[[Verdict], float]) -> list[float]:
    by_number: dict[int, list[float]] = {}
    for item in successful:
        by_number.setdefault(item.sample, []).append(value(item.verdict))
    return [float(np.mean(by_number[number])) for number in sorted(by_number)]


def call_figures(scored: Sequence[Scored], kinds: Mapping[tuple[str, int], str]) -> Record:
    """How many calls there were, and the failed ones by kind; `kinds`: of the (row, sample) that failed."""
    failed = [kinds.get((item.row, item.sample), NO_KIND) for item in scored if not item.verdict.ok]
    return {
        "calls": len(scored),
        "failed": len(failed),
        "kinds": dict(sorted(collections.Counter(failed).items())),
        "scored_prompts": len({item.row for item in scored if item.verdict.ok}),
    }


def comparison_figures(found: Comparison) -> Record:
    """A comparison as JSON values."""
    return _plain(dataclasses.asdict(found))


def _plain(record: Record) -> Record:
    """None for NaN, which JSON does not have."""
    return {
        key: _plain(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for key, value in record.items()
    }
