"""The figures of a result, by hand."""

import json

import numpy as np
import pytest

from lam_jax.errors import BadSettingError
from lam_jax.evaluation.figures import AnswerText, call_figures, diversity_figures, score_figures, text_figures
from lam_jax.evaluation.protocol import EvaluationProtocol
from lam_jax.evaluation.scoring import Scored
from lam_jax.rewards.embedding import HashingEmbedder
from lam_jax.rewards.verdict import Verdict
from lam_jax.rollout.sampling import SamplingConfig


def test_texts_by_hand():
    answers = [
        [AnswerText("a b c d a b c d", 10, True), AnswerText("a b c d a b c d", 10, True)],
        [AnswerText("yes", 2, True), AnswerText("a b c d e", 30, False)],
    ]
    assert text_figures(answers) == {
        "answers": 4,
        "length": {"mean": 13.0, "p95": pytest.approx(27.0), "max": 30},  # 10 + 0.85 * 20, between places 2 and 3
        "ended": 0.75,
        "repeated_4grams": pytest.approx((0.2 + 0.2 + 0) / 3),  # "yes" has no 4-gram
        "short_answers": 1,
        "distinct_1": pytest.approx(6 / 22),
        "distinct_2": pytest.approx(5 / 18),  # ab bc cd da, de
        "distinct_answers": 1.5,
    }


def test_scores_by_hand():
    """Two prompts of two samples, one failed call: ratios 1/2, 1 of dimension a, 1, 1/2 of b, and so on."""

    def verdict(a, b):
        return Verdict({"a": (a, 10.0), "b": (b, 10.0)})

    scored = [
        Scored("p", 0, verdict(5.0, 10.0)),  # 0.75
        Scored("p", 1, verdict(10.0, 10.0)),  # 1
        Scored("q", 0, verdict(5.0, 5.0)),  # 0.5
        Scored("q", 1, Verdict(error="timeout")),
    ]
    score, dimensions = score_figures(scored)
    assert score["mean"] == pytest.approx((0.75 + 1 + 0.5) / 3)
    assert score["sample_means"] == pytest.approx([0.625, 1.0])
    assert score["std"] == pytest.approx(np.std([0.625, 1.0], ddof=1))
    # Resampled prompts: p p (0.875), p q (0.75), q q (0.5).
    assert (score["low"], score["high"]) == pytest.approx((0.5, 0.875))
    assert dimensions["a"]["mean"] == pytest.approx(2 / 3)
    assert dimensions["a"]["sample_means"] == pytest.approx([0.5, 1.0])
    assert dimensions["b"]["mean"] == pytest.approx(2.5 / 3)
    counts = {"calls": 4, "failed": 1, "scored_prompts": 2}
    assert call_figures(scored, {}) == counts | {"kinds": {"failed": 1}}
    assert call_figures(scored, {("q", 1): "timeout", ("p", 9): "x"}) == counts | {"kinds": {"timeout": 1}}
    assert score_figures(scored, seed=1) == score_figures(scored[::-1], seed=1)
    json.dumps([score, dimensions], allow_nan=False)


def test_without_a_single_score_there_is_no_number():
    assert score_figures([Scored("p", 0, Verdict(error="x"))]) == (None, {})
    one, _ = score_figures([Scored("p", 0, Verdict({"a": (1.0, 2.0)}))])
    assert one == {"mean": 0.5, "low": None, "high": None, "std": None, "sample_means": [0.5]}


def test_diversity_by_hand():
    """Word counts: one word of two shared and no pair, so 1/3; equal texts 1."""
    answers = [[AnswerText(text, 1, True) for text in group] for group in (["a cat", "the cat"], ["x", "x"])]
    found = diversity_figures(answers, HashingEmbedder())
    assert found["similarity"] == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    assert found["diversity"] == pytest.approx(1.5, abs=1e-6)
    assert found["reciprocal_mean"] == pytest.approx(2, abs=1e-6)
    assert {key: found[key] for key in ("prompts", "samples", "cut")} == {"prompts": 2, "samples": 2, "cut": 0}


def test_the_protocol_is_the_paper_s():
    protocol = EvaluationProtocol()
    assert protocol.samples == 3
    assert protocol.sampling(True) == SamplingConfig(temperature=0.1, top_k=64)
    assert protocol.sampling(False) == SamplingConfig(temperature=0.1)
    assert protocol.diversity_samples == 8
    assert protocol.diversity_sampling(True) == SamplingConfig(temperature=1.0, top_k=32)
    assert protocol.diversity_sampling(False) == SamplingConfig()


@pytest.mark.parametrize(
    "values", [{"samples": 0}, {"temperature": -0.1}, {"diversity_samples": 1}, {"repetition_penalty": 0.0}]
)
def test_a_protocol_that_cannot_be_is_refused(values):
    with pytest.raises(BadSettingError, match="--" + next(iter(values)).replace("_", "-")):
        EvaluationProtocol(**values)
