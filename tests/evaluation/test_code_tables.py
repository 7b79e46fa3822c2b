"""Tables of codes against numbers worked out by hand: usage, mutual information, typical tokens, transitions."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.data.schemas import Example
from lam_jax.evaluation.code_contexts import context_class, passages, runs
from lam_jax.evaluation.code_reading import ReadRow
from lam_jax.evaluation.code_tables import (
    code_token_information,
    health_figures,
    lifted,
    nearest,
    transitions,
    typical_tokens,
)
from lam_jax.latent.health import CodeSums, health, row_sums

NONE = CodeSums(np.zeros(1), np.zeros(()), np.zeros(1), np.zeros(()))
# Eight positions: code 0 always says 7, code 1 says 8 or 9, code 2 is never taken.
CODES = np.array([0, 0, 0, 0, 1, 1, 1, 1])
TOKENS = np.array([7, 7, 7, 7, 8, 8, 8, 9])


def test_information_of_code_and_token():
    """The token tells the code for certain: all of the code's ln 2 is shared."""
    found = code_token_information(CODES, TOKENS)
    assert found["code_entropy"] == pytest.approx(math.log(2))
    expected = -(0.5 * math.log(0.5) + 0.375 * math.log(0.375) + 0.125 * math.log(0.125))
    assert found["token_entropy"] == pytest.approx(expected)
    assert found["mutual_information"] == pytest.approx(math.log(2))
    apart = code_token_information(np.array([0, 1, 0, 1]), np.array([5, 5, 6, 6]))
    assert apart["mutual_information"] == pytest.approx(0.0, abs=1e-12)


def test_typical_tokens():
    zero, one, none = typical_tokens(CODES, TOKENS, 3, 5)
    assert zero == [{"token": 7, "count": 4, "share": 1.0, "lift": 2.0}]
    assert [(row["token"], row["count"], row["share"], row["lift"]) for row in one] == [
        (8, 3, 0.75, 2.0),
        (9, 1, 0.25, 2.0),
    ]
    assert none == []


def test_a_frequent_token_that_a_code_avoids_is_not_typical():
    codes = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    tokens = np.array([3, 4, 4, 3, 3, 3, 3, 3])
    assert [row["token"] for row in typical_tokens(codes, tokens, 2, 5)[0]] == [4]


def test_transitions_are_counted_within_a_sequence():
    counts = transitions([[0, 1, 0, 1], [2, 2], [1], []], 3)
    assert counts.tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 1]]
    rows = lifted(counts, 1, 10)
    # 4 bigrams: 0 then 1 twice, expected 2 x 2 / 4 = 1; 1 then 0 once, expected 1 x 1 / 4; 2 then 2 likewise.
    assert {(r["first"], r["second"]): (r["count"], r["lift"]) for r in rows} == {
        (0, 1): (2, 2.0),
        (1, 0): (1, 4.0),
        (2, 2): (1, 4.0),
    }
    assert [(r["first"], r["second"]) for r in lifted(counts, 2, 10)] == [(0, 1)]


def test_nearest_by_cosine():
    book = np.array([[1.0, 0.0], [10.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = nearest(book, 2)
    assert [row["code"] for row in found[0]] == [1, 2]
    assert [row["cosine"] for row in found[0]] == pytest.approx([1.0, 0.0])
    assert found[3][-1] == {"code": 0, "cosine": -1.0} or found[3][0]["code"] == 2


def test_health_of_rows_together_is_that_of_all_positions():
    """Sums of rows of unequal length: neither padding nor the mean of the rows' means counts."""
    p = np.array([[[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], [[0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3]]])
    valid = np.array([[True, True], [True, False]])
    sums = row_sums(jnp.log(p), jnp.asarray(valid))
    rows = [
        type(sums)(*(np.asarray(x)[i] for x in (sums.probability, sums.entropy, sums.hits, sums.positions)))
        for i in (0, 1)
    ]
    found = health_figures(rows)
    flat = p[valid]
    mean = flat.mean(0)

    def entropy(q):
        return -(q * np.log(q)).sum(-1)

    assert found["positions"] == 3
    assert found["usage"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert found["dead_codes"] == 1
    assert found["top_share"] == pytest.approx(2 / 3)
    assert found["perplexity"] == pytest.approx(math.exp(entropy(mean)), rel=1e-5)
    assert found["conditional_entropy"] == pytest.approx(entropy(flat).mean(), rel=1e-5)
    assert found["mutual_information"] == pytest.approx(entropy(mean) - entropy(flat).mean(), rel=1e-4)
    whole = health(jnp.log(p), jnp.asarray(valid)).scalars()
    assert found["perplexity"] == pytest.approx(float(whole["perplexity"]), rel=1e-5)


@pytest.mark.parametrize(
    ("previous", "first", "expected"),
    [
        ("assistant\n", True, 0),
        (".", False, 1),
        ("?\n", False, 1),
        (",", False, 2),
        (" a", False, 3),
        (" tree", False, 4),
    ],
)
def test_context_classes(previous, first, expected):
    assert context_class(previous, first) == expected


def row(name, inferred, certainty, places=None):
    count = len(inferred)
    example = Example(name, ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}))
    places = np.arange(1, count + 1) if places is None else np.array(places)
    tokens = np.arange(100, 101 + max(places))
    codes = np.array(inferred)
    return ReadRow(example, tokens, places, codes, np.array(certainty, float), codes, None, NONE, NONE)


def test_answers_of_a_chat_are_sequences_of_their_own():
    found = row("a", [4, 5, 6], [1, 1, 1], places=[2, 3, 7])
    assert runs(found, found.inferred) == [[4, 5], [6]]


def test_passages_come_from_other_rows_first():
    rows = [row("a", [0, 0, 1], [0.9, 0.8, 0.5]), row("b", [0], [0.7], places=[3])]
    assert passages(rows, 3, 2) == [[(0, 0), (1, 0)], [(0, 2)], []]
    assert set(passages(rows, 3, 3)[0]) == {(0, 0), (0, 1), (1, 0)}
