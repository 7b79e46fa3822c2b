"""Sentence embeddings, for diversity and for a reward by similarity to the reference.

n texts, d embedding size.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from lam_jax.data.schemas import Example
from lam_jax.rewards.murmur3 import murmur3
from lam_jax.rewards.reward import Verdicts
from lam_jax.rewards.verdict import Verdict

WORD = re.compile(r"\w+")


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors of length 1 (0 for a text without words)."""

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """Embeddings in the order of the texts."""
        ...


class HashingEmbedder:
    """Counts of word 1-grams and 2-grams, hashed: needs no download and no fitting, and sees word choice and order.

    The same numbers as scikit-learn's HashingVectorizer gives with these n-grams and without signs.

    Args:
        features: d; collisions of n-grams become likely once texts hold about sqrt(d) different ones.
    """

    def __init__(self, features: int = 4096):
        self.features = features

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """Embeddings in the order of the texts."""
        # counts without signs keep every similarity between 0 and 1
        counts = np.zeros((len(texts), self.features))
        for row, text in zip(counts, texts, strict=True):
            words = WORD.findall(text.lower())
            for ngram in (*words, *map(" ".join, itertools.pairwise(words))):
                row[self._place(ngram)] += 1
        lengths = np.sqrt(np.square(counts).sum(axis=1, keepdims=True))
        return (counts / np.where(lengths == 0, 1, lengths)).astype(np.float32)

    def _place(self, ngram: str) -> int:
        unsigned = murmur3(ngram.encode())
        return min(unsigned, 2**32 - unsigned) % self.features  # the absolute value of the hash as a signed number


class SentenceTransformerEmbedder:
    """A model of the package sentence-transformers (extra `embeddings`), such as BAAI/bge-m3, which CoLA measures with.

    Raises:
        ImportError: the extra is not installed.
    """

    def __init__(self, model: str, device: str | None = None):
        try:
            from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                f"embedding with {model!r} needs the package sentence-transformers: pip install 'lam_jax[embeddings]', "
                "or use the embedder 'hashing'"
            ) from error
        self._model = SentenceTransformer(model, device=device)

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """Embeddings in the order of the texts."""
        vectors = self._model.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True)
        return np.asarray(vectors, np.float32)


@functools.cache
def load_embedder(name: str = "hashing") -> Embedder:
    """`hashing`, or the name or folder of a sentence-transformers model."""
    return HashingEmbedder() if name == "hashing" else SentenceTransformerEmbedder(name)


def similarity_verdicts(embedder: Embedder, answers: Sequence[str], references: Sequence[str]) -> list[Verdict]:
    """Reward by cosine similarity of each answer to its reference, as the one dimension `similarity`.

    Raises:
        ValueError: there is not one reference for each answer.
    """
    if len(answers) != len(references):
        raise ValueError(f"found {len(answers)} answers and {len(references)} references, expected as many of each")
    vectors = embedder([*answers, *references])
    cosine = np.sum(vectors[: len(answers)] * vectors[len(answers) :], axis=1)
    return [Verdict({"similarity": (float(value), 1.0)}) for value in cosine]


@dataclasses.dataclass(frozen=True)
class SimilarityReward:
    """Cosine similarity to the reference as a reward.

    Attributes:
        embedder: see `load_embedder`.
    """

    embedder: str = "hashing"

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts [N][G] on the one dimension `similarity`."""
        flat = [answer for group in answers for answer in group]
        references = [example.reference for example, group in zip(examples, answers, strict=True) for _ in group]
        verdicts = iter(similarity_verdicts(load_embedder(self.embedder), flat, references))
        return [[next(verdicts) for _ in group] for group in answers]
