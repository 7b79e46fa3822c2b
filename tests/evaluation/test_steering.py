"""Steering's figures against numbers worked out by hand: log-odds, properties, the choice at equal fluency."""

import math

import numpy as np
import pytest

from lam_jax.errors import BadSettingError
from lam_jax.evaluation.steering import Swept, at_fluency, by_prompt, curve, log_odds, property_of, steering_table

TEXTS = ["A cat.", "Arr, a cat, matey!", "Is it a cat? Or is it a dog there?", "Arr, matey, a dog."]
SPEAKERS = [None, "Pirate", None, "Pirate"]


def test_log_odds_without_smoothing():
    """Action 0: 3 of 4 with the property, 1 of 4 without: odds 3 against 1/3."""
    found = log_odds([[0, 0], [0, 1]], [[1, 1], [1, 0]], 3, prior=1e-9)
    assert found[:2] == pytest.approx([math.log(9), -math.log(9)], rel=1e-6)


def test_a_rare_action_gets_less_than_a_common_one():
    many = log_odds([[0] * 50], [[1] * 50], 3)
    once = log_odds([[0] * 50 + [2]], [[0] * 50 + [1]], 3)
    assert 0 < once[2] < 0.6 * many[0]  # alone it would be infinite
    assert log_odds([[0, 1]], [[0, 1]], 3)[2] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="no actions on one of the two sides"):
        log_odds([], [[1]], 3)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("long", [False, False, True, False]),
        ("question", [False, False, True, False]),
        ("contains:dog,horse", [False, False, True, True]),
        ("first:dog:cat", [False, False, False, True]),
        ("register:Pirate", [False, True, False, True]),
    ],
)
def test_properties(spec, expected):
    wanted = property_of(spec, TEXTS, SPEAKERS)
    assert [wanted.holds(text) for text in TEXTS] == expected
    assert wanted.instruction


@pytest.mark.parametrize("spec", ["short", "contains:", "first:cat", "register:Ada", "long:3"])
def test_unknown_properties_are_refused(spec):
    with pytest.raises(BadSettingError, match=r"expected long, question.*Pirate"):
        property_of(spec, TEXTS, SPEAKERS)


def swept(method, strengths, shares, fluency):
    """Ten prompts with ten answers each of exactly these shares."""
    has = np.zeros((10, len(strengths), 10), bool)
    for s, share in enumerate(shares):
        has[:, s, : round(10 * share)] = True
    return Swept(method, strengths, has, np.broadcast_to(np.array(fluency)[None, :, None], has.shape))


def test_the_best_strength_that_is_fluent_enough():
    codes = swept("codes", (0.0, 1.0, 4.0), (0.2, 0.5, 0.9), (-1.0, -1.1, -2.0))
    tokens = swept("tokens", (0.0, 1.0), (0.1, 0.8), (-1.5, -3.0))
    prompt = swept("prompt", (0.0,), (0.3,), (-1.05,))
    assert at_fluency(codes, -1.2) == (0.5, 1.0)
    assert at_fluency(codes, -5.0) == (0.9, 4.0)
    rows = {row["method"]: row for row in steering_table([codes, tokens, prompt], loss=0.2)}
    assert (rows["codes"]["share"], rows["codes"]["strength"]) == (0.5, 1.0)
    assert rows["codes"]["fluency"] == pytest.approx(-1.1)
    assert rows["codes"]["gain"] == pytest.approx(0.3)
    assert (rows["codes"]["gain_low"], rows["codes"]["gain_high"]) == pytest.approx((0.3, 0.3))
    assert rows["tokens"]["share"] is None  # never as fluent
    assert rows["tokens"]["low"] is None
    assert rows["prompt"]["gain"] == pytest.approx(0.1)
    assert curve(codes)[1] == {"strength": 1.0, "share": 0.5, "fluency": pytest.approx(-1.1)}


def test_intervals_are_over_prompts():
    """Half of the prompts always, half never: the share's standard error is 0.5 / sqrt(40)."""
    has = np.zeros((40, 1, 50), bool)
    has[:20] = True
    row = steering_table([Swept("codes", (0.0,), has, np.zeros(has.shape))], loss=0.0)[0]
    assert row["share"] == 0.5
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(40), rel=0.15)
    assert (row["gain_low"], row["gain_high"]) == (0.0, 0.0)


def test_answers_of_a_prompt_lie_by_strength_first():
    assert by_prompt([["a0", "a1", "b0", "b1"]], 2).tolist() == [[["a0", "a1"], ["b0", "b1"]]]
