import math

import numpy as np
import pytest

from lam_jax.evaluation.diversity import distinct_answers, diversity, prompt_similarity
from lam_jax.rewards.embedding import HashingEmbedder

# Prompt 0: unit vectors at 0, 60 and 60 degrees (one scaled): cosines 0.5, 0.5, 1. Prompt 1: all equal.
SIXTY = [0.5, math.sqrt(0.75)]
EMBEDDINGS = np.array([[[1, 0], SIXTY, [5 * x for x in SIXTY]], [[0, 1], [0, 2], [0, 3]]])


def test_similarity_by_hand():
    np.testing.assert_allclose(prompt_similarity(EMBEDDINGS), [2 / 3, 1])


def test_diversity_by_hand():
    got = diversity(EMBEDDINGS)
    assert got.similarity == pytest.approx(5 / 6)
    assert got.diversity == pytest.approx(6 / 5)
    assert got.reciprocal_mean == pytest.approx((1.5 + 1) / 2)


def test_nothing_in_common_is_bounded():
    got = diversity(np.eye(3)[None])
    assert got.similarity == 0
    assert got.diversity == pytest.approx(100)


def test_empty_answers_are_equal_to_each_other_only():
    embeddings = np.array([[[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    np.testing.assert_allclose(prompt_similarity(embeddings), [1 / 3])


def test_single_samples_are_refused():
    with pytest.raises(ValueError, match="1 sample a prompt"):
        diversity(np.ones((4, 1, 8)))


def test_non_finite_embeddings_are_named():
    bad = EMBEDDINGS.copy()
    bad[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"prompts \[1\] are not finite"):
        diversity(bad)


def test_repeated_answers_are_less_diverse_than_reworded_ones():
    embed = HashingEmbedder()
    same = ["A dog sits by the tree."] * 4
    reworded = ["A dog sits by the tree.", "By the tree sits a dog.", "I see a dog and a tree.", "What a lovely dog!"]
    unrelated = ["A dog sits by the tree.", "Blue cars race fast", "my hat is green", "she sings songs"]
    values = [diversity(embed(group)[None]).diversity for group in (same, reworded, unrelated)]
    assert values[0] == pytest.approx(1)
    assert values[0] < values[1] < values[2]


def test_distinct_answers():
    assert distinct_answers([["a", "b", "a"], ["c", "c", "c"]]) == 1.5
