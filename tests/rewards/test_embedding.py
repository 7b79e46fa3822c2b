import sys

import numpy as np
import pytest

from lam_jax.rewards.embedding import HashingEmbedder, load_embedder, similarity_verdicts


def test_embeddings_have_length_one_or_zero():
    vectors = HashingEmbedder(256)(["a b c", "the cat", ""])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0], atol=1e-6)


def test_word_order_is_seen():
    first, second = HashingEmbedder()(["dog bites man", "man bites dog"])
    assert 0.4 < first @ second < 0.99


@pytest.mark.parametrize(
    ("features", "text", "expected"),
    [
        (
            4096,
            "The cat sat on the mat, the CAT!",
            {158: 0.6, 353: 0.2, 778: 0.2, 1006: 0.2, 1382: 0.2, 1591: 0.2, 1768: 0.2}
            | {1831: 0.4, 2370: 0.4, 3979: 0.2, 4020: 0.2},
        ),
        (
            16,
            "Größe: 漢字 über x_1 größe",
            {1: 2 / 19**0.5, 2: 1 / 19**0.5, 4: 3 / 19**0.5, 11: 1 / 19**0.5, 12: 2 / 19**0.5},
        ),
    ],
)
def test_the_numbers_are_those_of_scikit_learn(features, text, expected):
    """Recorded from HashingVectorizer 1.9.1: capitals, a repeated 2-gram, letters beyond ASCII, collisions."""
    (vector,) = HashingEmbedder(features)([text])
    assert {int(place): float(vector[place]) for place in np.flatnonzero(vector)} == pytest.approx(expected, rel=1e-7)


def test_similarity_reward():
    """One word of two shared and no 2-gram: three n-grams each, one common, so 1/3."""
    verdicts = similarity_verdicts(HashingEmbedder(), ["a cat", "a dog", ""], ["a cat", "the dog", "x"])
    assert [v.reward for v in verdicts] == pytest.approx([1, 1 / 3, 0], abs=1e-6)


def test_unequal_numbers_of_texts_are_refused():
    with pytest.raises(ValueError, match="2 answers and 1 references"):
        similarity_verdicts(HashingEmbedder(), ["a", "b"], ["a"])


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"lam_jax\[embeddings\]"):
        load_embedder("BAAI/bge-m3")
