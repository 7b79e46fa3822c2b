"""Rollout diversity (method.md section 5): how different the answers to one prompt are.

P prompts, n samples of each, d embedding size.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64

from lam_jax.rewards.embedding import Embedder

MIN_SIMILARITY = 0.01  # bounds 1 / s where a prompt's answers share nothing


@dataclasses.dataclass(frozen=True)
class Diversity:
    """Diversity of a set of rollouts.

    Attributes:
        similarity: cosine similarity s over pairs of a prompt's samples, averaged within a prompt, then over prompts.
        diversity: 1 / s.
        reciprocal_mean: mean over prompts of 1 / (the prompt's own similarity), which rare odd prompts dominate.
    """

    similarity: float
    diversity: float
    reciprocal_mean: float


def prompt_similarity(
    embeddings: Float[np.ndarray, "P n d"], same: Bool[np.ndarray, "P n n"] | None = None
) -> Float64[np.ndarray, "P"]:
    """Mean cosine similarity over the n (n - 1) / 2 pairs of each prompt's samples.

    Two all-zero embeddings (empty answers) count as equal, an all-zero and another one as unrelated.

    Args:
        embeddings: of the samples.
        same: pairs whose similarity is 1, whatever rounding says: those of one text.

    Raises:
        ValueError: fewer than two samples, or values that are not finite.
    """
    samples = embeddings.shape[1]
    if samples < 2:
        raise ValueError(f"embeddings have shape {embeddings.shape}: {samples} sample a prompt, expected at least 2")
    if not np.isfinite(embeddings).all():
        bad = sorted({int(prompt) for prompt in np.argwhere(~np.isfinite(embeddings))[:, 0]})
        raise ValueError(f"embeddings of prompts {bad[:8]} are not finite; check the texts and the embedder")
    vectors = embeddings.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=-1)
    unit = vectors / np.where(norms == 0, 1.0, norms)[..., None]
    cosine = np.einsum("pid,pjd->pij", unit, unit)
    empty = norms == 0
    equal = empty[:, :, None] & empty[:, None, :]
    cosine = np.where(equal if same is None else equal | same, 1.0, cosine)
    first, second = np.triu_indices(samples, k=1)
    return cosine[:, first, second].mean(axis=1)


def diversity(embeddings: Float[np.ndarray, "P n d"], same: Bool[np.ndarray, "P n n"] | None = None) -> Diversity:
    """Diversity from the sentence embeddings of n samples of each prompt; s under 0.01 counts as 0.01."""
    similarity = prompt_similarity(embeddings, same)
    mean = float(similarity.mean())
    return Diversity(
        similarity=mean,
        diversity=1 / max(mean, MIN_SIMILARITY),
        reciprocal_mean=float((1 / np.maximum(similarity, MIN_SIMILARITY)).mean()),
    )


def text_diversity(answers: Sequence[Sequence[str]], embedder: Embedder) -> Diversity:
    """Diversity of texts [P][n]; each different text is embedded once, and equal ones have similarity 1 exactly.

    Raises:
        ValueError: no prompts, fewer than two samples, or not as many of each prompt.
    """
    counts = sorted({len(group) for group in answers})
    if len(counts) != 1:
        raise ValueError(f"found {counts or 'no'} answers a prompt, expected as many of each, two or more")
    number = {text: index for index, text in enumerate(dict.fromkeys(text for group in answers for text in group))}
    places = np.array([[number[text] for text in group] for group in answers])
    vectors = np.asarray(embedder(list(number)))
    return diversity(vectors[places], places[:, :, None] == places[:, None, :])


def distinct_answers(answers: Sequence[Sequence[str]]) -> float:
    """Mean number of different texts among a prompt's samples.

    Raises:
        ValueError: there are no prompts.
    """
    if not answers:
        raise ValueError("found no prompts, expected the answers of at least one")
    return sum(len(set(group)) for group in answers) / len(answers)
